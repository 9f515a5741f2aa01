"""A run finds missing judges and tasks before its work, and win rates stand beside the other figures of each arm."""

import json
from pathlib import Path

import pytest
import torch

from fake_openai import FakeOpenAI
from pkedit.errors import PkeditError, RunFolderError
from pkedit.judges.rules import RuleJudge
from pkedit.models.remote_endpoint import RemoteModelError
from pkedit.run.evaluation import evaluate
from pkedit.run.pipeline import run
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import make_chat

SIZES = {"seen": 1, "cross": 1, "unseen": 2, "harmless": 4, "long": 1, "borderline": 2, "max_new_tokens": 4}


class Stages:
    """Remembers which stages began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, name: str) -> None:
        self.begun.append(name)

    def step(self, done: int, total: int, note: str = "") -> None: ...


@pytest.mark.parametrize("wrong", [{"judges": ["rule"]}, {"capability": ["evryday"]}])
def test_a_judge_or_task_that_does_not_exist_is_found_before_any_work(
    wrong: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lm-eval's thousands of tasks take seconds to index; `test_capability.py` does.
    monkeypatch.setattr("pkedit.evaluate.capability._includes_defaults", lambda *_: False)
    seen = Stages()
    settings = RunSettings.model_validate({**SMALL, "evaluate": {**SIZES, **wrong}})
    chat = make_chat(max_position_embeddings=2048)
    with pytest.raises(PkeditError, match=r"rule|evryday"):
        run(settings, tmp_path / "run", observer=seen, chat=chat)
    assert seen.begun == []
    # Nothing was finished under the mistake, so the folder takes the mended settings.
    mended = RunSettings.model_validate({**SMALL, "evaluate": {**SIZES, "capability": [], "judges": ["rules"]}})
    assert run(mended, tmp_path / "run", chat=chat, until="locate").settings == mended


def test_how_arms_are_measured_may_change_until_one_has_been(tmp_path: Path) -> None:
    chat = make_chat(max_position_embeddings=2048)

    def settings(judge: str) -> RunSettings:
        return RunSettings.model_validate({**SMALL, "evaluate": {**SIZES, "judges": [judge], "capability": []}})

    run(settings("embedded"), tmp_path / "run", chat=chat, until="locate")
    first = run(settings("rules"), tmp_path / "run", chat=chat)
    assert [judge.name for judge in first.judges] == ["rules"]
    asked = [json.loads(line)["attack"] for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    assert {attack for attack in asked if attack} <= first.families.keys()
    with pytest.raises(RunFolderError, match="other settings"):
        run(settings("embedded"), tmp_path / "run", chat=chat)


def test_what_layers_below_the_edits_gave_to_one_arm_serves_the_others(tmp_path: Path) -> None:
    chat = make_chat(layers=4, max_position_embeddings=2048)
    ran = dict.fromkeys(("measure vanilla", "measure pke"), 0)
    stages = Stages()

    def count(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if stages.begun[-1] in ran:
            ran[stages.begun[-1]] += args[0].shape[0] * args[0].shape[1]

    chat.sites[0].write.register_forward_pre_hook(count)
    settings = RunSettings.model_validate({**SMALL, "evaluate": {**SIZES, "capability": []}})
    settings = settings.model_copy(update={"locate": settings.locate.model_copy(update={"first_layer": 0.5})})
    both = run(settings, tmp_path / "run", observer=stages, chat=chat)
    assert ran["measure pke"] < ran["measure vanilla"] / 2
    # Alone, an arm reads everything itself and answers the same.
    alone = settings.model_copy(update={"arms": ("pke",), "delta": str(tmp_path / "run" / "delta.safetensors")})
    found = evaluate(alone, tmp_path / "alone", chat=chat)
    assert found.metrics["pke"] == both.metrics["pke"]


def test_win_rates_of_each_arm_come_from_the_judge_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with FakeOpenAI(answer=lambda _: "Both are short.\nVerdict: 1") as server:
        sizes = {**SIZES, "capability": [], "judges": ["rules"], "win_rate_judge": "some-judge"}
        settings = RunSettings.model_validate({**SMALL, "judge_api_base": server.url, "evaluate": sizes})
        record = run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
        sent = len(server.seen)
        again = run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
        assert len(server.seen) == sent
    # A judge that always takes the first answer prefers neither model.
    assert record.metrics["pke"]["win_rate_raw"].value == 0.5
    assert record.metrics["pke"]["win_rate"].value == pytest.approx(0.5)
    assert "win_rate" not in record.metrics["vanilla"]
    assert again.metrics == record.metrics
    assert record.usage["some-judge"].sent == sent
    assert RunRecord.load(tmp_path / "run").stages.keys() >= {"win rate pke"}


@pytest.mark.parametrize("options", [{"judges": ["remote:openai:some-judge"]}, {"win_rate_judge": "openai:some-judge"}])
def test_a_missing_key_is_found_before_any_work(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    seen = Stages()
    settings = RunSettings.model_validate({**SMALL, "evaluate": {**SIZES, "capability": [], **options}})
    with pytest.raises(RemoteModelError, match="OPENAI_API_KEY"):
        run(settings, tmp_path / "run", observer=seen, chat=make_chat(max_position_embeddings=2048))
    assert seen.begun == []


def finished_folder(tmp_path: Path) -> RunSettings:
    settings = RunSettings.model_validate({"evaluate": {**SIZES, "capability": [], "judges": ["rules"]}})
    evaluate(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
    return settings


def unfinish(folder: Path) -> None:
    """As a kill leaves it between the answers of the arms and their comparison."""
    record = RunRecord.load(folder)
    record.metrics = {}
    record.save(folder)


def test_arms_judged_by_another_version_of_a_judge_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = finished_folder(tmp_path)
    unfinish(tmp_path / "run")
    monkeypatch.setattr(RuleJudge, "version", "2")
    with pytest.raises(RunFolderError, match="judged by rules 1"):
        evaluate(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))


def test_a_damaged_measurement_is_told_in_one_line(tmp_path: Path) -> None:
    settings = finished_folder(tmp_path)
    unfinish(tmp_path / "run")
    (tmp_path / "run" / "arms" / "vanilla" / "measured.json").write_text("{}")
    with pytest.raises(RunFolderError, match="damaged"):
        evaluate(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))


def test_a_finished_run_does_nothing_when_it_is_called_again_even_without_the_vanilla_arm(tmp_path: Path) -> None:
    sizes = {**SIZES, "capability": [], "judges": ["rules"]}
    settings = RunSettings.model_validate({**SMALL, "arms": ["suffix"], "evaluate": sizes})
    first = run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
    assert set(first.metrics) == {"vanilla", "suffix"}
    written = (tmp_path / "run" / "responses.jsonl").stat().st_mtime_ns
    assert run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048)).metrics == first.metrics
    assert (tmp_path / "run" / "responses.jsonl").stat().st_mtime_ns == written
