"""Remote models: every fault of a provider has its status, each request is answered once, the key stays secret."""

import logging
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from fake_openai import RETRY_AFTER, SLOW_SECONDS, FakeOpenAI, Fault
from pkedit.models.remote import AnswerStatus, Price, RemoteAnswer, RemoteModel, RemoteModelError
from pkedit.models.remote_endpoint import endpoint_of, is_remote

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Generator[FakeOpenAI]:
    with FakeOpenAI() as running:
        yield running


def model(server: FakeOpenAI, **options: Any) -> RemoteModel:
    return RemoteModel("tiny", api_base=server.url, **{"max_retries": 2, **options})


def ask(asked: RemoteModel, *prompts: str) -> list[RemoteAnswer]:
    return asked.ask(prompts, max_new_tokens=8)


def patience(fault: Fault) -> float:
    """A client's timeout: short only where it is to run out, for a busy machine answers late."""
    return SLOW_SECONDS / 2 if fault is Fault.SLOW else 30.0


def test_answers_come_in_the_order_of_the_prompts_and_equal_prompts_are_sent_once(server: FakeOpenAI) -> None:
    asked = model(server)
    prompts = [f"p{number % 7}" for number in range(20)]
    steps: list[tuple[int, int]] = []
    answers = asked.ask(prompts, max_new_tokens=8, progress=lambda done, total: steps.append((done, total)))
    assert [answer.text for answer in answers] == [f"echo: {prompt}" for prompt in prompts]
    assert set(server.answered.values()) == {1}
    assert steps[-1] == (20, 20)
    assert steps == sorted(steps)


def test_requests_ask_for_the_likeliest_tokens_up_to_the_limit(server: FakeOpenAI) -> None:
    ask(model(server), "p")
    (seen,) = server.seen
    assert seen.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "p"}],
        "max_tokens": 8,
        "temperature": 0.0,
    }
    assert seen.key == KEY
    assert seen.path == "/v1/chat/completions"


def test_no_more_requests_are_under_way_than_allowed() -> None:
    with FakeOpenAI(delay=0.03) as server:
        ask(model(server, concurrency=3), *(f"p{number}" for number in range(15)))
        assert 1 < server.most_at_once <= 3


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.ERROR, Fault.SLOW, Fault.CUT, Fault.RESET])
def test_a_passing_fault_is_retried_and_the_request_answered_once(fault: Fault) -> None:
    with FakeOpenAI(faults={"b": [fault]}) as server:
        answers = ask(model(server, timeout=patience(fault)), "a", "b", "c")
        assert [answer.text for answer in answers] == ["echo: a", "echo: b", "echo: c"]
        assert {answer.status for answer in answers} == {AnswerStatus.ANSWERED}
        assert server.answered == {"a": 1, "b": 1, "c": 1}
        assert [server.attempts(prompt) for prompt in "abc"] == [1, 2, 1]


def test_a_rate_limit_is_waited_for_as_long_as_the_provider_says() -> None:
    with FakeOpenAI(faults={"a": [Fault.RATE_LIMIT]}) as server:
        ask(model(server), "a")
        first, second = server.seen
        assert second.at - first.at >= RETRY_AFTER


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        (Fault.RATE_LIMIT, "HTTP 429: slow down", 2),
        (Fault.ERROR, "HTTP 500: overloaded", 2),
        (Fault.SLOW, "timed out", 2),
        (Fault.CUT, "connection failed", 2),
        (Fault.RESET, "connection failed", 2),
        (Fault.MALFORMED, "no JSON", 1),
        (Fault.NOT_A_COMPLETION, "no chat completion: choices.0.finish_reason", 1),
        (Fault.PAGE, "no JSON", 1),
        (Fault.NO_TEXT, "no text", 1),
        (Fault.TOO_LONG, "HTTP 400: too many tokens", 1),
    ],
)
def test_a_lasting_fault_fails_its_own_request_and_is_asked_again_next_time(
    fault: Fault, reason: str, attempts: int, tmp_path: Path
) -> None:
    with FakeOpenAI(faults={"b": [fault] * attempts}) as server:
        answers = ask(model(server, max_retries=1, cache=tmp_path, timeout=patience(fault)), "a", "b", "c")
        assert [answer.status.value for answer in answers] == ["answered", "failed", "answered"]
        assert reason in answers[1].reason
        assert answers[1].text == ""
        assert server.attempts("b") == attempts
        again = model(server, cache=tmp_path)
        assert [answer.text for answer in ask(again, "a", "b", "c")] == ["echo: a", "echo: b", "echo: c"]
        assert (again.usage.sent, again.usage.from_cache) == (1, 2)
        assert server.answered == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault.FILTERED, "I will"),
        (Fault.FILTERED_PROMPT, ""),
        (Fault.INVALID_PROMPT, ""),
        (Fault.REFUSAL, "I can't help with that."),
    ],
)
def test_what_the_providers_filter_withholds_is_filtered_and_cached(fault: Fault, text: str, tmp_path: Path) -> None:
    with FakeOpenAI(faults={"b": [fault]}) as server:
        answers = ask(model(server, cache=tmp_path), "a", "b")
        assert [answer.status.value for answer in answers] == ["answered", "filtered"]
        assert answers[1].text == text
        assert answers[1].reason
        assert ask(model(server, cache=tmp_path), "a", "b") == answers
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.WRONG_KEY, "refused the key for tiny .HTTP 401.: check the environment variable OPENAI_API_KEY"),
        (Fault.FORBIDDEN, "refused the key for tiny .HTTP 403."),
        (Fault.NO_MODEL, "has no model 'tiny'"),
        (Fault.UNSUPPORTED, "refuses a parameter: HTTP 400: temperature does not support 0"),
    ],
)
def test_what_no_request_can_survive_stops_after_the_first(fault: Fault, message: str) -> None:
    with FakeOpenAI(every=fault) as server:
        with pytest.raises(RemoteModelError, match=message) as caught:
            ask(model(server), *(f"p{number}" for number in range(50)))
        assert len(server.seen) == 1
        assert KEY not in str(caught.value)


def test_a_refused_key_in_mid_run_fails_that_request_only() -> None:
    with FakeOpenAI(faults={"b": [Fault.WRONG_KEY]}) as server:
        answers = ask(model(server), "a", "b", "c")
        assert [answer.status.value for answer in answers] == ["answered", "failed", "answered"]


def test_an_address_where_nobody_answers_is_named() -> None:
    with FakeOpenAI() as server:
        url = server.url
    with pytest.raises(RemoteModelError, match=r"cannot reach http://127\.0\.0\.1:"):
        RemoteModel("tiny", api_base=url, max_retries=0).ask(["a"], max_new_tokens=8)


def test_a_lasting_outage_ends_the_run_and_keeps_its_answers(tmp_path: Path) -> None:
    prompts = [f"p{number}" for number in range(100)]
    with FakeOpenAI() as server:
        ask(model(server, cache=tmp_path), "p0")
        server.every = Fault.ERROR
        with pytest.raises(RemoteModelError, match=r"16 requests in a row failed .HTTP 500: overloaded.; run again"):
            ask(model(server, cache=tmp_path, max_retries=0, concurrency=2), *prompts)
        assert len(server.seen) < 25
        server.every = None
        again = model(server, cache=tmp_path)
        assert all(answer.status is AnswerStatus.ANSWERED for answer in ask(again, *prompts))
        assert again.usage.from_cache == 1


def test_after_an_interruption_nothing_more_is_sent() -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with FakeOpenAI(delay=0.05) as server:
        with pytest.raises(KeyboardInterrupt):
            model(server, concurrency=2).ask([f"p{n}" for n in range(50)], max_new_tokens=8, progress=interrupt)
        sent = len(server.seen)
        time.sleep(0.2)
        assert len(server.seen) == sent < 50


def test_a_prompt_that_cannot_be_encoded_fails_alone(server: FakeOpenAI) -> None:
    answers = ask(model(server), "a", "\ud800")
    assert [answer.status.value for answer in answers] == ["answered", "failed"]


def test_usage_counts_tokens_and_dollars_of_what_was_sent(server: FakeOpenAI, tmp_path: Path) -> None:
    asked = model(server, cache=tmp_path, price=Price(30.0, 60.0))
    ask(asked, "a", "b")
    assert (asked.usage.prompt_tokens, asked.usage.completion_tokens) == (6, 10)
    assert asked.usage.cost == pytest.approx((6 * 30 + 10 * 60) / 1e6)
    ask(asked, "a", "b")
    assert (asked.usage.sent, asked.usage.from_cache) == (2, 2)
    second = model(server, cache=tmp_path, price=Price(30.0, 60.0))
    ask(second, "a", "b")
    assert (second.usage.sent, second.usage.cost) == (0, 0.0)
    assert model(server).usage.cost is None
    assert "price unknown" in model(server).usage.describe()


def test_known_models_have_their_list_price() -> None:
    assert RemoteModel("openai:gpt-4-0613").usage.price == Price(30.0, 60.0)
    assert RemoteModel("anthropic:claude-3-sonnet-20240229").usage.price == Price(3.0, 15.0)
    # The same name elsewhere is another offer.
    assert RemoteModel("gpt-4-0613", api_base="http://localhost:1/v1").usage.price is None


def test_a_spec_names_provider_model_and_key() -> None:
    claude = endpoint_of("anthropic:claude-3-sonnet-20240229")
    assert claude.base_url == "https://api.anthropic.com/v1/"
    assert (claude.model, claude.key_variable) == ("claude-3-sonnet-20240229", "ANTHROPIC_API_KEY")
    assert (claude.limit_name, endpoint_of("openai:gpt-4-0613").limit_name) == ("max_tokens", "max_completion_tokens")
    assert endpoint_of("llama3:8b", "http://localhost:11434/v1").model == "llama3:8b"
    assert endpoint_of("x", "http://localhost:1/v1").base_url == endpoint_of("x", "http://localhost:1/v1/").base_url
    assert is_remote("openai:gpt-4-0613")
    assert is_remote("anything", "http://localhost:1/v1")
    assert not is_remote("meta-llama/Meta-Llama-3-8B-Instruct")
    assert not is_remote("C:/models/mine")


@pytest.mark.parametrize(
    ("spec", "api_base"),
    [
        ("openai:", None),
        ("gpt-4-0613", None),
        ("x", "localhost:8000"),
        ("x", "https://user:secret@host/v1"),
        ("x", "https://host/v1?api-key=secret"),
    ],
)
def test_a_spec_that_names_no_endpoint_or_holds_a_key_is_refused(spec: str, api_base: str | None) -> None:
    with pytest.raises(RemoteModelError) as caught:
        RemoteModel(spec, api_base=api_base)
    assert "secret" not in str(caught.value)


def test_a_missing_key_is_named_where_one_is_needed(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(RemoteModelError, match="set the environment variable ANTHROPIC_API_KEY"):
        ask(RemoteModel("anthropic:claude-3-sonnet-20240229"), "a")
    ask(model(server), "a")
    assert server.seen[0].key == "none"


def test_the_key_appears_in_no_file_log_error_or_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = {"b": [Fault.WRONG_KEY], "c": [Fault.CUT] * 3, "d": [Fault.FILTERED_PROMPT]}
    # A server that echoes the key in its answers and errors.
    with FakeOpenAI(faults=faults, answer=lambda prompt: f"Authorization: Bearer {KEY}") as server:
        asked = model(server, cache=tmp_path)
        answers = ask(asked, "a", "b", "c", "d", "e")
        assert {seen.key for seen in server.seen} == {KEY}
    with FakeOpenAI(every=Fault.WRONG_KEY) as server, pytest.raises(RemoteModelError) as caught:
        ask(model(server), "a")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(KEY.encode() not in path.read_bytes() for path in files)
    shown = [repr(asked), repr(vars(asked)), repr(answers), repr(caught.value), caplog.text, *capfd.readouterr()]
    assert all(KEY not in text for text in shown)
    assert answers[0].text == "Authorization: Bearer [key]"


def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted\nkey")
    with pytest.raises(RemoteModelError, match="OPENAI_API_KEY holds characters") as caught:
        ask(model(server), "a")
    assert "planted" not in str(caught.value)
