"""An edit leaves alone, as a file that says what it is for and nothing of the machine that it was made on."""

import json
from pathlib import Path

import pytest
import torch
from edited import logits, make_run
from safetensors import safe_open

from checkpoints import write_gguf
from pkedit.edit.delta import Delta
from pkedit.errors import RunFolderError
from pkedit.export import opened
from pkedit.export.delta import export_delta
from pkedit.models.loading import load_model
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import save_chat


def test_it_is_the_edit_bit_for_bit_and_no_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_chat(tmp_path / "base")
    folder, edited = make_run(tmp_path / "run", model)
    monkeypatch.setattr(opened, "load_model", None)
    destination = export_delta(folder, tmp_path / "exported")
    before, after = Delta.load(folder / "delta.safetensors"), Delta.load(destination / "delta.safetensors")
    for old, new in zip(before.layers, after.layers, strict=True):
        assert old.name == new.name
        assert all(torch.equal(old.change[part], new.change[part]) for part in old.change)
        assert all(torch.equal(old.original[part], new.original[part]) for part in old.original)
    chat = load_model(str(model))
    with after.applied_to(chat):
        assert torch.equal(logits(chat.model), edited)


def test_its_header_says_what_it_is_and_holds_no_path(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    destination = export_delta(folder, tmp_path / "exported")
    with safe_open(destination / "delta.safetensors", "pt") as file:
        header = file.metadata()
    assert header["base"] == "base"
    content = json.loads(header["extra"])
    assert content["paper"] == "https://arxiv.org/abs/2410.03772"
    assert content["neurons"] == 3
    assert str(tmp_path) not in json.dumps(header) + (destination / "README.md").read_text()


def test_the_embedded_model_stays_the_one_of_the_package(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    new_record(RunSettings()).save(folder)
    destination = export_delta(folder, tmp_path / "exported")
    assert Delta.load(destination / "delta.safetensors").base == "smollm2"
    assert 'pkedit.load_model("smollm2"' in (destination / "README.md").read_text()


def test_for_other_weights_it_keeps_their_originals(tmp_path: Path) -> None:
    source, whole = write_gguf(tmp_path / "model.gguf"), save_chat(tmp_path / "whole", hidden=32, neurons=32)
    folder, _ = make_run(tmp_path / "run", source)
    told: list[str] = []
    destination = export_delta(folder, tmp_path / "exported", base=str(whole), tell=told.append)
    Delta.load(destination / "delta.safetensors").check(load_model(str(whole)))
    assert "put onto the weights of whole" in told[0]


def test_a_destination_in_use_is_refused(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    with pytest.raises(RunFolderError, match="not empty"):
        export_delta(folder, folder)
