"""Every file has a version: another one is refused by name, and so is a field that this version does not know.

What a run leaves beside these (`targets.jsonl`, `responses.jsonl`, and what stands under `arms/`) has the version of
its `run.json`, which knows the SHA-256 of each. The figures of `pkedit bench` are written for others to read.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import PkeditError
from pkedit.locate.region import Region
from pkedit.report.files import PathwayFile, RegionFile, TuneFile, WordsFile, read_file
from pkedit.run.record import CHECKSUM, RunRecord, _checksum, new_record
from pkedit.run.safeedit.folder import _read_record
from pkedit.run.safeedit.settings import SafeEditRecord, SafeEditSettings
from pkedit.settings import RunSettings
from tiny import make_chat, make_region

Change = Callable[[dict[str, Any]], object]


def _json(path: Path, content: dict[str, Any], change: Change) -> None:
    change(content)
    path.write_text(json.dumps(content))


def run_json(folder: Path, change: Change) -> object:
    new_record(RunSettings()).save(folder)
    content = json.loads((folder / "run.json").read_text())
    del content[CHECKSUM]
    change(content)
    (folder / "run.json").write_text(json.dumps({**content, CHECKSUM: _checksum(content)}))
    return RunRecord.load(folder)


def safeedit_json(folder: Path, change: Change) -> object:
    new = new_record(RunSettings())
    record = SafeEditRecord(
        created=new.created,
        command="",
        settings=SafeEditSettings(file="cases.json", method="pke"),
        file_sha256="",
        cases_in_file=1,
        versions={},
        hardware={},
    )
    _json(folder / "safeedit.json", json.loads(record.model_dump_json()), change)
    return _read_record(folder / "safeedit.json")


def delta_file(folder: Path, change: Change) -> object:
    path = folder / "delta.safetensors"
    HookedDelta(make_chat(), make_region({1: [2]}), ("write",)).freeze().save(path)
    with safe_open(path, "pt") as file:
        header: dict[str, Any] = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header)
    save_file(tensors, path, {key: str(value) for key, value in header.items()})
    return Delta.load(path)


def region_json(folder: Path, change: Change) -> object:
    make_region({1: [2]}).save(folder / "region.json")
    _json(folder / "region.json", json.loads((folder / "region.json").read_text()), change)
    assert read_file(folder / "region.json", RegionFile)
    return Region.load(folder / "region.json")


def region_of_report(folder: Path, change: Change) -> object:
    make_region({1: [2]}).save(folder / "region.json")
    _json(folder / "region.json", json.loads((folder / "region.json").read_text()), change)
    return read_file(folder / "region.json", RegionFile)


def reported(kind: Any, content: dict[str, Any]) -> Callable[[Path, Change], object]:
    def read(folder: Path, change: Change) -> object:
        _json(folder / "file.json", {"schema_version": 1, **content}, change)
        return read_file(folder / "file.json", kind)

    return read


FORMATS: dict[str, Callable[[Path, Change], object]] = {
    "run.json": run_json,
    "safeedit.json": safeedit_json,
    "delta.safetensors": delta_file,
    "region.json": region_json,
    "region.json in the report": region_of_report,
    "pathway.json": reported(PathwayFile, {"pairs": 1, "attention": [], "mlp": [], "nodes": [], "edges": []}),
    "words.json": reported(WordsFile, {"neurons": []}),
    "tune.json": reported(TuneFile, {"trials": []}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_as_it_is_written_is_read(tmp_path: Path, name: str) -> None:
    assert FORMATS[name](tmp_path, lambda content: None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("version", [0, 99, "x", None, [1]], ids=str)
def test_a_file_of_another_version_is_refused_by_name(tmp_path: Path, name: str, version: object) -> None:
    with pytest.raises(PkeditError, match=r"schema.version") as told:
        FORMATS[name](tmp_path, lambda content: content.update(schema_version=version))
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("name", FORMATS)
def test_an_unknown_field_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(PkeditError, match="colour") as told:
        FORMATS[name](tmp_path, lambda content: content.update(colour="red"))
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_region_from_before_there_were_versions_is_read(tmp_path: Path) -> None:
    assert region_json(tmp_path, lambda content: content.pop("schema_version"))
