"""The cache of remote answers: a second run is free, a killed one resumes, a damaged entry is asked again."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import pkedit
from fake_openai import FakeOpenAI
from pkedit.models.remote import AnswerStatus, RemoteAnswer, RemoteModel, RemoteModelError
from pkedit.models.remote_cache import AnswerCache, Cached, Request

REQUEST = Request("http://localhost:1/v1/", "tiny", ({"role": "user", "content": "p"},), {"max_tokens": 8})
ANSWER = RemoteAnswer("Grüße 👋", AnswerStatus.ANSWERED, "", 3, 5)
PROMPTS = tuple(f"p{number}" for number in range(24))
# Run by a process that is killed. Only the remote modules are loaded, not torch with their package.
KILLED = """
import sys, types
package = types.ModuleType("pkedit.models")
package.__path__ = [sys.argv[1]]
sys.modules["pkedit.models"] = package
from pkedit.models.remote import RemoteModel
RemoteModel("tiny", api_base=sys.argv[2], cache=sys.argv[3], concurrency=3).ask(sys.argv[4:], max_new_tokens=8)
"""
MODELS = str(Path(pkedit.__file__).parent / "models")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def model(server: FakeOpenAI, folder: Path) -> RemoteModel:
    return RemoteModel("tiny", api_base=server.url, cache=folder, max_retries=1)


def test_a_second_run_sends_nothing_and_gives_the_same_answers(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        first = model(server, tmp_path).ask(PROMPTS, max_new_tokens=8)
        second = model(server, tmp_path)
        assert second.ask(PROMPTS, max_new_tokens=8) == first
        assert (second.usage.sent, second.usage.from_cache) == (0, len(PROMPTS))
        assert len(server.seen) == len(PROMPTS)


def test_a_run_from_the_cache_needs_neither_key_nor_network(tmp_path: Path) -> None:
    url = "https://example.invalid/v1"
    asked = RemoteModel("tiny", api_base=url, cache=tmp_path)
    messages = ({"role": "user", "content": "p"},)
    AnswerCache(tmp_path).store(Request(f"{url}/", "tiny", messages, {"max_tokens": 8, "temperature": 0.0}), ANSWER)
    assert asked.ask(["p"], max_new_tokens=8) == [ANSWER]


def test_another_endpoint_model_prompt_or_parameter_is_another_request() -> None:
    others = [
        replace(REQUEST, base_url="http://localhost:2/v1/"),
        replace(REQUEST, model="other"),
        replace(REQUEST, messages=({"role": "user", "content": "q"},)),
        replace(REQUEST, parameters={"max_tokens": 9}),
    ]
    assert len({REQUEST.digest, *(other.digest for other in others)}) == 5


def test_a_killed_run_resumes_with_what_is_missing(tmp_path: Path) -> None:
    with FakeOpenAI(delay=0.04) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, MODELS, server.url, str(tmp_path), *PROMPTS])
        try:
            deadline = time.monotonic() + 60
            while server.answered.total() < 10 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = len(list(tmp_path.rglob("*.json")))
        # At most the three requests under way were answered without being kept.
        assert server.answered.total() - 3 <= kept < len(PROMPTS)
        assert kept >= 7
        before = len(server.seen)
        resumed = model(server, tmp_path)
        answers = resumed.ask(PROMPTS, max_new_tokens=8)
        assert [answer.text for answer in answers] == [f"echo: {prompt}" for prompt in PROMPTS]
        assert (resumed.usage.sent, resumed.usage.from_cache) == (len(PROMPTS) - kept, kept)
        assert len(server.seen) - before == len(PROMPTS) - kept
        assert len(list(tmp_path.rglob("*.json"))) == len(PROMPTS)


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "no JSON", "a list", "another request", "bad status"])
def test_a_damaged_entry_is_asked_again_and_mended(damage: str, tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        (answer,) = model(server, tmp_path).ask(["a"], max_new_tokens=8)
        (path,) = tmp_path.rglob("*.json")
        content = path.read_bytes()
        AnswerCache(tmp_path / "others").store(REQUEST, ANSWER)
        other = AnswerCache(tmp_path / "others").path(REQUEST).read_bytes()
        status = content.replace(b'"answered"', b'"excellent"')
        damaged = {
            "empty": b"",
            "half": content[: len(content) // 2],
            "flipped": content.replace(b"echo", b"ecko"),
            "no JSON": b"\xff\xfe\x00",
            "a list": b"[1, 2]",
            "another request": other,
            "bad status": status,
        }
        path.write_bytes(damaged[damage])
        again = model(server, tmp_path)
        assert again.ask(["a"], max_new_tokens=8) == [answer]
        assert (again.usage.sent, again.usage.damaged) == (1, 1)
        assert path.read_bytes() == content


def test_what_a_killed_writer_left_behind_is_no_entry(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    path = cache.path(REQUEST)
    path.parent.mkdir(parents=True)
    (path.parent / ".partial-abc").write_text("half")
    assert cache.find(REQUEST) == Cached(None)
    cache.store(REQUEST, ANSWER)
    assert cache.find(REQUEST) == Cached(ANSWER)


def test_readers_see_whole_entries_while_many_write_the_same_one(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.store(REQUEST, ANSWER)
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(cache.store, REQUEST, ANSWER) for _ in range(100)]
        reads = [pool.submit(cache.find, REQUEST) for _ in range(100)]
    assert all(read.result() == Cached(ANSWER) for read in reads)
    assert all(write.result() is None for write in writes)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [cache.path(REQUEST).name]


def test_a_failure_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never cached"):
        AnswerCache(tmp_path).store(REQUEST, RemoteAnswer("", AnswerStatus.FAILED, "HTTP 500"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with FakeOpenAI() as server, pytest.raises(RemoteModelError, match=r"cannot read the cache of answers in .*file"):
        model(server, tmp_path / "file").ask(["a"], max_new_tokens=8)


def test_neither_torch_nor_the_client_is_loaded_before_a_request() -> None:
    code = KILLED.split("from pkedit")[0] + (
        "import pkedit.models.remote, pkedit.models.remote_cache, pkedit.judges.remote\n"
        "sys.exit(bool({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, MODELS], check=False).returncode == 0
