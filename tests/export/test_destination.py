"""A new folder is complete or absent, and blames on itself only what is its own fault."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pkedit.errors import RunFolderError
from pkedit.export.destination import check_free, new_folder, saving_weights


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("content")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "file").read_text() == "content"


def test_what_the_body_raises_is_not_a_fault_of_the_destination(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"base/config\.json"), new_folder(tmp_path / "out"):
        (tmp_path / "base" / "config.json").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    used = tmp_path / "file" / "out"
    with pytest.raises(RunFolderError, match=r"cannot write .*file/out: .*; give another --to"), new_folder(used):
        pass


def test_weights_that_cannot_be_written_are_no_fault_of_pkedit(tmp_path: Path) -> None:
    weights, absent = {"weight": torch.zeros(1)}, tmp_path / "absent" / "model.safetensors"
    with pytest.raises(RunFolderError, match=r"the weights cannot be written: .*No such file"), saving_weights():
        save_file(weights, absent)


def test_what_holds_something_is_not_free(tmp_path: Path) -> None:
    check_free(tmp_path / "absent")
    check_free(tmp_path)
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunFolderError, match="not empty"):
            check_free(used)
