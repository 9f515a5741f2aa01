"""A model behind an endpoint is asked the prompts of a run, by faults too, and stands beside an edited model."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from fake_openai import FakeOpenAI, Fault
from pkedit.errors import PkeditError, RunFolderError
from pkedit.evaluate.suite import Suite
from pkedit.models.remote import RemoteModel, RemoteModelError
from pkedit.observer import Silent
from pkedit.report import build_report
from pkedit.run.data import asked_pairs, read_splits, run_suite
from pkedit.run.evaluation import evaluate
from pkedit.run.pipeline import run
from pkedit.run.remote import evaluate_remote
from pkedit.run.side_by_side import print_side_by_side, side_by_side
from pkedit.run.wording import judge_sentences
from pkedit.settings import EvaluateSettings, RunSettings

KEY = "sk-planted-0123456789abcdef"
SIZES = EvaluateSettings(
    seen=1, cross=1, unseen=3, harmless=2, long=1, borderline=2, max_new_tokens=8, judges=("rules",)
)


@pytest.fixture(autouse=True)
def _own_cache_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings_for(server: FakeOpenAI, **changes: object) -> RunSettings:
    return RunSettings.model_validate(
        {"model": "some-model", "api_base": server.url, "concurrency": 2, "evaluate": SIZES, **changes}
    )


def suite_of(settings: RunSettings) -> Suite:
    splits = read_splits(settings)
    return run_suite(splits, asked_pairs(splits, settings), settings)


def test_it_is_asked_every_prompt_once_and_has_no_figure_that_needs_weights(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        settings = settings_for(server)
        record = evaluate(settings, tmp_path / "run")
        asked = [one.prompt for one in server.seen]
    wanted = {prompt.text for _, prompt in suite_of(settings).prompts}
    assert sorted(asked) == sorted(wanted)
    metrics = record.metrics["vanilla"]
    assert {"asr", "over_refusal", "fluency"} <= metrics.keys()
    assert not {"kl", "perplexity", "capability"} & metrics.keys()
    assert record.usage["some-model"].sent == len(wanted)
    assert record.verdicts == {}


def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        first = evaluate(settings_for(server), tmp_path / "one")
        before = len(server.seen)
        second = evaluate(settings_for(server), tmp_path / "two")
        assert len(server.seen) == before
    assert second.metrics == first.metrics
    assert second.usage["some-model"].sent == 0
    assert second.usage["some-model"].from_cache == before


def test_what_the_filter_holds_back_is_refused_and_what_never_comes_is_unjudged(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        settings = settings_for(server)
        first, second, third = (prompt.text for prompt in suite_of(settings).groups["bare"])
        server.faults.update({first: [Fault.FILTERED], second: [Fault.ERROR] * 3})
        model = RemoteModel("some-model", api_base=server.url, max_retries=0, concurrency=1)
        record = evaluate_remote(settings, tmp_path / "run", observer=Silent(), model=model)
        assert "measure vanilla" not in record.stages
    rows = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    said = {row["prompt"]: row["verdicts"][0]["judgement"] for row in rows if row["group"] == "bare"}
    assert said[first] == "refused"
    assert said[second] == "unjudged"
    assert said[third] not in ("unjudged", "refused")
    assert record.metrics["vanilla"]["asr_bare"].n == 2
    assert record.unjudged == {"vanilla": {"rules": 1}}
    assert "Unjudged by rules, and left out of its rates: 1 of vanilla." in judge_sentences(record)
    assert "Unjudged by rules" in build_report(tmp_path / "run").read_text(encoding="utf-8")
    assert record.usage["some-model"].failed == 1


def test_the_same_call_asks_again_for_missing_answers_alone(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        settings = settings_for(server, concurrency=1)
        missing = suite_of(settings).groups["bare"][1].text
        server.faults[missing] = [Fault.NO_TEXT]
        assert evaluate(settings, tmp_path / "run").metrics["vanilla"]["asr_bare"].n == 2
        before = len(server.seen)
        record = evaluate(settings, tmp_path / "run")
        assert [one.prompt for one in server.seen[before:]] == [missing]
    assert record.metrics["vanilla"]["asr_bare"].n == 3
    assert "measure vanilla" in record.stages


def test_an_answer_that_never_came_makes_the_others_no_less_fluent(tmp_path: Path) -> None:
    with FakeOpenAI(answer=lambda _: "This is an ordinary answer of several words.") as server:
        settings = settings_for(server)
        first = suite_of(settings).groups["harmless"][0].text
        usual = evaluate(settings, tmp_path / "usual").metrics["vanilla"]["fluency"]
        server.faults.update({first: [Fault.ERROR] * 3})
        model = RemoteModel("some-model", api_base=server.url, max_retries=0, concurrency=1)
        cut = evaluate_remote(settings, tmp_path / "cut", observer=Silent(), model=model).metrics["vanilla"]["fluency"]
    assert (usual.n, cut.n) == (2, 1)
    assert cut.value == pytest.approx(usual.value)


@pytest.mark.parametrize("field", ["api_base", "judge_api_base"])
def test_an_address_that_holds_a_key_is_refused_before_anything_is_written(field: str, tmp_path: Path) -> None:
    settings = RunSettings(model="some-model", evaluate=SIZES).model_copy(
        update={"api_base": "http://127.0.0.1:9/v1", field: f"http://me:{KEY}@127.0.0.1:9/v1"}
    )
    with pytest.raises(RemoteModelError, match="must not hold a user name") as error:
        evaluate(settings, tmp_path / "run")
    assert KEY not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_remote_judge_without_its_key_is_found_before_the_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with FakeOpenAI() as server:
        judges = SIZES.model_copy(update={"judges": ("remote:anthropic:some-judge",)})
        with pytest.raises(RemoteModelError, match="ANTHROPIC_API_KEY"):
            evaluate(settings_for(server, evaluate=judges), tmp_path / "run")
        assert server.seen == []


def test_the_key_is_in_no_file(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        evaluate(settings_for(server), tmp_path / "run")
        assert {one.key for one in server.seen} == {KEY}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"run.json", "responses.jsonl"}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_it_cannot_be_edited(tmp_path: Path) -> None:
    with pytest.raises(PkeditError, match="only be measured"):
        run(RunSettings(model="openai:gpt-4-0613"), tmp_path / "run")
    with pytest.raises(RemoteModelError, match="needs the weights"):
        evaluate(RunSettings(model="openai:gpt-4-0613", delta="delta.safetensors"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_on_the_same_prompts_stand_side_by_side_and_others_do_not(tmp_path: Path) -> None:
    console = Console(width=200, record=True)
    with FakeOpenAI() as server:
        for name in ("one", "two"):
            evaluate(settings_for(server, model=name), tmp_path / name)
        fewer = SIZES.model_copy(update={"unseen": 2})
        evaluate(settings_for(server, evaluate=fewer), tmp_path / "fewer")
        other = SIZES.model_copy(update={"judges": ("rules", "embedded")})
        evaluate(settings_for(server, evaluate=other), tmp_path / "other")
        longer = SIZES.model_copy(update={"max_new_tokens": 9})
        evaluate(settings_for(server, evaluate=longer), tmp_path / "longer")
    merged = side_by_side([tmp_path / "one", tmp_path / "two"])
    print_side_by_side(merged, console)
    assert list(merged.metrics) == ["vanilla", "two"]
    assert "two" in console.export_text()
    with pytest.raises(RunFolderError, match="other prompts"):
        side_by_side([tmp_path / "one", tmp_path / "fewer"])
    with pytest.raises(RunFolderError, match="other lengths"):
        side_by_side([tmp_path / "one", tmp_path / "longer"])
    with pytest.raises(RunFolderError, match="judged by others"):
        side_by_side([tmp_path / "one", tmp_path / "other"])
