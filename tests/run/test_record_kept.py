"""The record notices what was changed: itself, what stages left, and what the run was given."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pkedit.run.record
from pkedit.errors import OtherRunError, RunFolderError
from pkedit.run.folder import RunFolder
from pkedit.run.inputs import hash_inputs, weights_identity
from pkedit.run.left import ANSWERS, files_of, resting_on
from pkedit.run.record import RecordedMetric, RunRecord, StageRecord, new_record, write_atomically
from pkedit.settings import RunSettings

STAGES = [
    *("load", "sample", "locate", "causal", "edit dinm", "edit random", "edit pke", "explain"),
    *(f"{what} {arm}" for what in ("measure", "capability") for arm in ("vanilla", "dinm", "random", "pke")),
    *(f"win rate {arm}" for arm in ("dinm", "random", "pke")),
]


def finished_folder(path: Path) -> Path:
    """A folder in which every stage has left its files."""
    with RunFolder.open(path, RunSettings()) as folder:
        for stage in STAGES:
            for name in files_of(stage):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_text(f"{stage} {name}")
            folder.record.stages[stage] = StageRecord(seconds=1, peak_memory=1)
            folder.finish(stage)
        folder.write_answers([{"answer": "one"}])
        folder.record.metrics = {"pke": {"asr": RecordedMetric(value=0, n=1, low=0, high=1)}}
        folder.save()
    return path


def names(path: Path) -> list[str]:
    return [name for stage in STAGES for name in files_of(stage)] + [ANSWERS]


def test_each_file_that_was_changed_is_named_and_what_to_do(tmp_path: Path) -> None:
    path = finished_folder(tmp_path / "run")
    for name in names(path):
        before = (path / name).read_bytes()
        (path / name).write_bytes(before[:-1])
        with pytest.raises(RunFolderError, match=rf"{name}: damaged or changed .*delete the file and"):
            RunFolder.open(path, RunSettings())
        (path / name).write_bytes(before)
    RunFolder.open(path, RunSettings())


@pytest.mark.parametrize(
    ("gone", "again"),
    [
        ("targets.jsonl", {*STAGES} - {"load"}),
        (
            "region.json",
            {
                *("locate", "causal", "explain", "edit random", "edit pke"),
                *(f"{what} {arm}" for what in ("measure", "capability", "win rate") for arm in ("random", "pke")),
            },
        ),
        ("delta.safetensors", {"edit pke", "explain", "measure pke", "capability pke", "win rate pke"}),
        ("arms/dinm/delta.safetensors", {"edit dinm", "measure dinm", "capability dinm", "win rate dinm"}),
        ("words.json", {"explain"}),
        ("arms/vanilla/measured.json", {stage for stage in STAGES if stage.startswith(("measure", "win rate"))}),
        ("arms/pke/responses.jsonl", {"measure pke", "win rate pke"}),
        ("arms/pke/capability.json", {"capability pke"}),
        ("arms/pke/win_rate.json", {"win rate pke"}),
        (ANSWERS, set()),
    ],
)
def test_a_file_that_is_gone_has_its_stage_and_what_rests_on_it_done_again(
    gone: str, again: set[str], tmp_path: Path
) -> None:
    path = finished_folder(tmp_path / "run")
    (path / gone).unlink()
    record = RunFolder.open(path, RunSettings()).record
    assert {*STAGES} - {*record.stages} == again
    assert record.files.keys() == {name for stage in record.stages for name in files_of(stage)} | ({ANSWERS} - {gone})
    assert (record.metrics == {}) == (gone != "words.json")


def test_nothing_rests_on_a_stage_that_leaves_no_file() -> None:
    assert resting_on("causal", STAGES) == ["causal"]


def test_a_kill_between_new_answers_and_their_sum_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished_folder(tmp_path / "run")
    with RunFolder.open(path, RunSettings()) as folder:
        folder.write_answers([{"answer": "another"}])
    RunFolder.open(path, RunSettings())


@pytest.mark.parametrize("change", [("value", 0.0, 0.5), ("n", 1, 2), ("seconds", 1.0, 2.0)])
def test_a_record_that_was_changed_by_hand_is_refused(change: tuple[str, Any, Any], tmp_path: Path) -> None:
    path = finished_folder(tmp_path / "run")
    name, old, new = change
    text = (path / "run.json").read_text()
    (path / "run.json").write_text(text.replace(f'"{name}": {old}', f'"{name}": {new}'))
    assert (path / "run.json").read_text() != text
    with pytest.raises(RunFolderError, match=r"run\.json: damaged .*checksum"):
        RunRecord.load(path)


def test_the_schema_before_this_one_is_read_and_others_are_refused_by_name(tmp_path: Path) -> None:
    new_record(RunSettings()).save(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    for name in ("inputs", "files", "sha256"):
        del content[name]
    (tmp_path / "run.json").write_text(json.dumps(content | {"schema_version": 2}))
    assert RunRecord.load(tmp_path).files == {}
    RunFolder.open(tmp_path, RunSettings()).save()
    assert RunRecord.load(tmp_path).schema_version == 3
    for other in (1, 4, None):
        (tmp_path / "run.json").write_text(json.dumps(content | {"schema_version": other}))
        with pytest.raises(RunFolderError, match=f"schema version {other}"):
            RunRecord.load(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(content | {"schema_version": 2, "colour": "blue"}))
    with pytest.raises(RunFolderError, match=r"run\.json: damaged"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize("name", ["harmful", "harmless", "borderline", "attacks", "delta", "chat_template"])
def test_a_given_file_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    file, path = tmp_path / "given.jsonl", tmp_path / "run"
    file.write_text("one")
    settings = RunSettings.model_validate({name: str(file)})
    with RunFolder.open(path, settings) as folder:
        assert folder.record.inputs == hash_inputs(settings) != {}
        folder.record.stages["sample"] = StageRecord(seconds=1, peak_memory=1)
        folder.save()
    RunFolder.open(path, settings)
    file.write_text("two")
    with pytest.raises(OtherRunError, match=rf"the content of {file}"):
        RunFolder.open(path, settings)


def test_weights_are_known_by_their_revision_or_their_content(tmp_path: Path) -> None:
    unknown = SimpleNamespace(config=SimpleNamespace())
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    first = weights_identity(str(model), unknown)
    (model / "model.safetensors").write_bytes(b"Weights")
    second = weights_identity(str(model), unknown)
    (model / "extra.safetensors").write_bytes(b"more")
    third = weights_identity(str(model), unknown)
    assert len({first, second, third}) == 3
    assert str(third).endswith("of 2 files")
    downloaded = SimpleNamespace(config=SimpleNamespace(_commit_hash="abc"))
    assert weights_identity("someone/model", downloaded) == "revision abc"


def test_the_record_names_the_commit_of_a_checkout_and_of_nothing_else(tmp_path: Path) -> None:
    assert pkedit.run.record._commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert pkedit.run.record._commit(tmp_path) is None
    (tmp_path / "src" / "pkedit").mkdir(parents=True)
    assert pkedit.run.record._commit(tmp_path) == "unknown: git does not say"


def test_answers_with_any_line_separator_are_read_as_written(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", RunSettings()) as folder:
        rows = [{"answer": "one\u2028two\x85three\r\nfour\x0c"}, {"answer": ""}]
        folder.write_answers(rows)
        assert folder.read_lines(folder.path / ANSWERS) == rows


def test_lines_are_written_as_they_come(tmp_path: Path) -> None:
    seen = []

    def rows() -> Any:
        for number in range(3):
            seen.append((tmp_path / ".lines.partial").exists())
            yield {"number": number}

    with RunFolder.open(tmp_path / "run", RunSettings()) as folder:
        folder.write_lines(tmp_path / "lines", rows())
    assert seen == [True] * 3


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def broken(source: Path, target: Path) -> None:
        raise OSError("broken")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="broken"):
        write_atomically(path, "new")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]
