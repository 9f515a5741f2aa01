"""The table on disk: cell by cell, resumed, of one run's edits under one set of settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from pkedit.durability import ablation, command
from pkedit.durability.command import durability
from pkedit.durability.folder import RECORD, read_record
from pkedit.edit.delta import Delta
from pkedit.errors import PkeditError, RunFolderError
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.run.lock import Lock
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from tiny import changed_weights, snapshot

QUICK = {"prompts": 3, "conditions": ("as-is", "reloaded", "merged-0.5")}


def cells(folder: Path) -> dict[tuple[str, str], Any]:
    rows = read_record(folder / RECORD).rows
    return {(name, arm): cell for name, row in rows.items() for arm, cell in row.arms.items()}


def test_a_table_has_every_arm_under_every_condition_and_touches_nothing_else(folder: Path, loaded: ChatModel) -> None:
    run, before = (folder / "run.json").read_bytes(), snapshot(loaded.model)
    told: list[tuple[str, str, int]] = []
    record = durability(folder, **QUICK, chat=loaded, told=lambda _, name, arm, total: told.append((name, arm, total)))
    assert list(record.rows) == ["as-is", "reloaded", "merged-0.5"]
    assert told == [(name, arm, 9) for name in record.rows for arm in ("vanilla", "random", "pke")]
    found = cells(folder)
    for (name, arm), cell in found.items():
        if (name, arm) == ("merged-0.5", "vanilla"):
            assert not cell.metrics
            assert cell.note == "not measured: the base merged with itself is the base"
        else:
            assert {"asr", "asr_bare", "over_refusal", "borderline_refusal", "incoherent"} == cell.metrics.keys()
            assert {metric.n for metric in cell.metrics.values()} == {3, 12}
        assert cell.seconds >= cell.preparing >= 0
    # Weights that are the same bit for bit are not asked again.
    assert found["reloaded", "pke"].metrics == found["as-is", "pke"].metrics
    assert "so its answers are those of as it is" in found["reloaded", "pke"].note
    answers = (folder / "durability" / "as-is" / "pke.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["group"] for line in answers[::3]] == ["dg_other_aq", "bare", "harmless", "borderline"]
    assert (folder / "run.json").read_bytes() == run
    assert changed_weights(loaded.model, before) == []
    assert len(record.worst) == 3
    assert any("saved and loaded (vanilla, random, pke)" in note for note in record.notes)


def test_the_edit_is_what_was_asked(folder: Path, loaded: ChatModel) -> None:
    durability(folder, conditions=("as-is",), prompts=3, chat=loaded)
    rows = [json.loads(line) for line in (folder / "durability/as-is/pke.jsonl").read_text("utf-8").splitlines()]
    edit = Delta.load(folder / "delta.safetensors")
    # In the arithmetic of the table: where it is a narrower one, a near tie may fall otherwise.
    with edit.applied_to(loaded), arithmetic(loaded, "auto", cast_once=True):
        assert [row["answer"] for row in rows] == loaded.generate([row["prompt"] for row in rows], max_new_tokens=4)


def test_a_killed_table_resumes_behind_its_last_cell_with_the_same_figures(
    folder: Path, loaded: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    asked: list[str] = []
    usual = command.ask

    def counted(*given: Any, arm: str, **how: Any) -> Any:
        asked.append(arm)
        if len(asked) == 3:
            raise Killed
        return usual(*given, arm=arm, **how)

    monkeypatch.setattr(command, "ask", counted)
    with pytest.raises(Killed):
        durability(folder, conditions=("as-is", "bf16"), prompts=3, chat=loaded)
    assert list(cells(folder)) == [("as-is", "vanilla"), ("as-is", "random")]
    durability(folder, conditions=("as-is", "bf16"), prompts=3, chat=loaded)
    assert asked == ["vanilla", "random", "pke", "pke", "vanilla", "random", "pke"]
    resumed = {key: cell.metrics for key, cell in cells(folder).items()}
    durability(folder, conditions=("as-is", "bf16"), prompts=3, chat=loaded)
    assert len(asked) == 7
    (folder / RECORD).unlink()
    durability(folder, conditions=("bf16", "as-is"), prompts=3, chat=loaded)
    assert {key: cell.metrics for key, cell in cells(folder).items()} == resumed


def test_later_calls_add_arms_and_conditions(folder: Path, loaded: ChatModel) -> None:
    durability(folder, conditions=("4-bit",), arms=("pke",), prompts=3, chat=loaded)
    record = durability(folder, conditions=("as-is",), arms=("vanilla",), prompts=3, chat=loaded)
    assert list(record.rows) == ["as-is", "4-bit"]
    assert list(cells(folder)) == [("as-is", "vanilla"), ("4-bit", "pke")]


def test_other_settings_or_another_edit_are_refused_by_name(folder: Path, loaded: ChatModel) -> None:
    durability(folder, conditions=("as-is",), arms=("pke",), prompts=3, chat=loaded)
    with pytest.raises(RunFolderError, match=r"measured otherwise \(prompts 3 → 2\)"):
        durability(folder, conditions=("as-is",), prompts=2, chat=loaded)
    (Delta.load(folder / "delta.safetensors") * 0.5).save(folder / "delta.safetensors")
    with pytest.raises(RunFolderError, match="the edit of pke"):
        durability(folder, conditions=("as-is",), prompts=3, chat=loaded)


def test_what_cannot_be_measured_is_refused_in_one_line(
    folder: Path, loaded: ChatModel, run_settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PkeditError, match="no condition is called frozen; choose from as-is"):
        durability(folder, conditions=("frozen",))
    with pytest.raises(RunFolderError, match="no edit of dinm; choose from vanilla, random, pke"):
        durability(folder, arms=("dinm",))
    with pytest.raises(RunFolderError, match=r"no run\.json"):
        durability(folder / "arms")
    with Lock.take(folder), pytest.raises(RunFolderError, match="in use by process"):
        durability(folder, chat=loaded)
    record = RunRecord.load(folder)
    for change, told in (
        ({"model": "openai:gpt-4"}, "without weights"),
        ({"engine": "vllm"}, "without weights"),
        ({"adapter": "somewhere"}, "adapter"),
    ):
        record.settings = run_settings.model_copy(update=change)
        record.save(folder)
        with pytest.raises(RunFolderError, match=told):
            durability(folder)
    record.settings = run_settings
    record.inputs["harmful"] = "0" * 64
    record.save(folder)
    with pytest.raises(RunFolderError, match="other content of"):
        durability(folder)
    record.inputs.clear()
    record.files["delta.safetensors"] = "0" * 64
    record.save(folder)
    with pytest.raises(RunFolderError, match=r"delta\.safetensors: damaged or changed"):
        durability(folder)
    for path in folder.rglob("delta.safetensors"):
        path.unlink()
    with pytest.raises(RunFolderError, match="no edit whose durability"):
        durability(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "rows": 1}'])
def test_a_damaged_table_is_named(folder: Path, content: str) -> None:
    (folder / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"durability\.json.*delete it and measure again"):
        durability(folder)


def test_a_condition_that_means_nothing_here_is_noted_and_the_table_goes_on(
    folder: Path, loaded: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "find_mixers", lambda _: None)
    record = durability(folder, conditions=("as-is", "ablated"), arms=("pke",), prompts=3, chat=loaded)
    assert record.rows["ablated"].arms["pke"].note == ("not measured: where the model's attention writes is not clear")
    assert record.notes
