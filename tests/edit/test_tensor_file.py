"""A safetensors file is written whole or not at all, and the same tensors are always the same bytes."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pkedit.edit import tensor_file
from pkedit.edit.tensor_file import save_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([4], dtype=torch.int64)}
FACTS = {f"fact{number}": f"value {number} of “é”" for number in range(12)}


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    # A transposed view is not laid out as the file wants it.
    save_tensors({**TENSORS, "turned": TENSORS["b"].T}, path, FACTS)
    found = load_file(path)
    assert torch.equal(found["b"], TENSORS["b"])
    assert torch.equal(found["turned"], TENSORS["b"].T)
    assert torch.equal(found["a"], TENSORS["a"])
    with safe_open(path, "pt") as file:
        assert file.metadata() == FACTS
    assert [path] == [*tmp_path.iterdir()]


def test_without_facts_there_are_none_in_the_file(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "some.safetensors")
    with safe_open(tmp_path / "some.safetensors", "pt") as file:
        assert file.metadata() is None
        assert torch.equal(file.get_tensor("b"), TENSORS["b"])


def test_the_same_tensors_and_facts_are_the_same_bytes(tmp_path: Path) -> None:
    facts = list(FACTS.items())
    for number in range(6):
        save_tensors(TENSORS, tmp_path / str(number), dict([*facts[2 * number :], *facts[: 2 * number]]))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(6)}) == 1


def fails_in_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_file.os, "fsync", full)


def test_on_a_full_disk_the_file_is_the_one_before_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.safetensors"
    save_tensors(TENSORS, path)
    before = path.read_bytes()
    fails_in_fsync(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"b": torch.zeros(50)}, path)
    assert path.read_bytes() == before
    assert [path] == [*tmp_path.iterdir()]


def test_a_disk_that_is_full_from_the_start_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(TENSORS, tmp_path / "some.safetensors")
    assert [*tmp_path.iterdir()] == []


def test_where_the_library_cannot_write_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent/some\.safetensors cannot be written: .*No such file"):
        save_tensors(TENSORS, tmp_path / "absent" / "some.safetensors")
