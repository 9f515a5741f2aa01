"""What was read is handed over once, and takes no more memory than it may."""

import errno
import tempfile
from typing import Any

import pytest
import torch

from pkedit.models.chat import ChatModel
from pkedit.models.keys import Keys
from pkedit.models.read_prompts import ReadPrompts


def keys(tokens: int, *, value: float = 0.0) -> Keys:
    """Of two layers with one head of width 2, in float32: 16 bytes a token in each."""
    return [(torch.full((1, tokens, 2), value), torch.full((1, tokens, 2), value)) for _ in range(2)]


def test_a_prompt_is_handed_over_once() -> None:
    read = ReadPrompts()
    read.keep([1, 2, 3], None, [keys(2)])
    assert [1, 2, 3] in read
    assert [1, 2, 4] not in read
    assert len(read) == 1
    read.take([1, 2, 3], 0)
    assert [1, 2, 3] not in read
    with pytest.raises(KeyError):
        read.take([1, 2, 3], 0)


@pytest.mark.parametrize("shared", range(4))
def test_what_is_handed_over_begins_where_it_is_wanted(shared: int) -> None:
    beginning, own = keys(2, value=1.0), keys(2, value=2.0)
    read = ReadPrompts()
    read.keep([1, 2, 3, 4, 5], beginning, [own])
    for layer in read.take([1, 2, 3, 4, 5], shared):
        for part in layer:
            assert part[0, :, 0].tolist() == [1.0, 1.0, 2.0, 2.0][shared:]


def test_the_pieces_of_a_prompt_are_joined_in_their_order() -> None:
    read = ReadPrompts()
    read.keep([9, 9], None, [keys(1, value=3.0)])
    read.keep([1, 2, 3, 4], None, [keys(2, value=1.0), keys(1, value=2.0)])
    found = read.take([1, 2, 3, 4], 0)
    assert len(found) == 2
    for layer in found:
        for part in layer:
            assert part[0, :, 0].tolist() == [1.0, 1.0, 2.0]


def test_copies_are_kept_in_the_narrower_format() -> None:
    read = ReadPrompts()
    mixed = [(layer[0], layer[1].bfloat16()) for layer in keys(3)]
    read.keep([1, 2, 3, 4], None, [mixed])
    mixed[0][1].fill_(7.0)
    found = read.take([1, 2, 3, 4], 0)
    assert {part.dtype for layer in found for part in layer} == {torch.bfloat16}
    assert float(found[0][1].max()) == 0.0


def test_no_more_is_kept_than_there_is_room_for() -> None:
    read = ReadPrompts(limit=3 * 32)
    read.keep([1, 2, 3], None, [keys(2)])
    read.keep([4, 5, 6], None, [keys(2)])
    read.keep([7, 8], None, [keys(1)])
    assert [4, 5, 6] not in read
    assert [7, 8] in read


class FullDisk:
    """A file that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def seek(self, place: int) -> None:
        self._file.seek(place)

    def write(self, content: bytes) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, "no space left on device")
        written: int = self._file.write(content[: self._room])
        self._room -= written
        return written

    def readinto(self, content: bytearray) -> None:
        self._file.readinto(content)


@pytest.mark.parametrize("room", [64, 80])
def test_where_the_disk_is_full_the_rest_is_not_kept(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: FullDisk(whole(**options), room))
    read = ReadPrompts()
    for prompt in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        read.keep(prompt, None, [keys(2, value=5.0)])
    assert len(read) == 1
    assert float(read.take([1, 2, 3], 0)[1][1].min()) == 5.0


def test_what_is_kept_can_be_part_of_a_gradient(llama: ChatModel) -> None:
    read = ReadPrompts()
    llama.generate(["w1 w2", "w3"], max_new_tokens=1, read=read)
    found = read.take(llama.prompt_ids("w1 w2"), 0)
    assert not any(part.is_inference() for layer in found for part in layer)
