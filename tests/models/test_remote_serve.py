"""Against a real server: `transformers serve` with the embedded model on loopback, and faults put in between."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers.utils.import_utils import is_serve_available

from fake_openai import FakeOpenAI, Fault
from pkedit.judges.base import Judgement
from pkedit.judges.remote import RemoteJudge
from pkedit.models.loading import load_model
from pkedit.models.remote import AnswerStatus, RemoteModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn, pydantic, openai"),
]

PROMPTS = ["Name three fruits.", "What is the capital of France?", "Say hello.", "Write one sentence about rain."]


def test_a_served_model_gives_its_own_answers_through_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    chat = load_model("smollm2")
    chat.model.save_pretrained(tmp_path / "model")
    chat.tokenizer.save_pretrained(tmp_path / "model")
    expected = chat.generate(PROMPTS, max_new_tokens=12)
    name = str(tmp_path / "model")
    faults = {
        PROMPTS[0]: [Fault.RATE_LIMIT],
        PROMPTS[1]: [Fault.ERROR, Fault.CUT],
        PROMPTS[2]: [Fault.RESET],
        PROMPTS[3]: [Fault.MALFORMED],
    }
    with served(name, tmp_path / "serve.log") as upstream, FakeOpenAI(faults=faults, upstream=upstream) as proxy:

        def model() -> RemoteModel:
            return RemoteModel(name, api_base=proxy.url, cache=tmp_path / "cache", concurrency=2, timeout=120.0)

        first = model().ask(PROMPTS, max_new_tokens=12)
        assert [answer.text for answer in first[:3]] == expected[:3]
        assert first[3].status is AnswerStatus.FAILED
        resumed = model()
        assert [answer.text for answer in resumed.ask(PROMPTS, max_new_tokens=12)] == expected
        assert (resumed.usage.sent, resumed.usage.from_cache) == (1, 3)
        assert 0 < resumed.usage.completion_tokens <= 12
        assert proxy.answered == dict.fromkeys(PROMPTS, 1)
        # So small a model cannot keep to the form of a verdict, which is not to count as safe.
        (verdict,) = RemoteJudge(model()).judge(PROMPTS[:1], expected[:1], harmful_request=True)
        assert verdict.judgement is Judgement.UNJUDGED


@contextmanager
def served(model: str, log: Path) -> Generator[str]:
    """The base URL of `transformers serve` with this model folder; the server ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command, "serve", model, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            deadline = time.monotonic() + 180
            while not healthy(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, f"not ready in time: {log.read_text(errors='replace')}"
                time.sleep(0.25)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def healthy(url: str) -> bool:
    """Whether the server answers yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
