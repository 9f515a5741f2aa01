"""Prompts that were read once and are wanted again: an edit learns from those that answers were sampled to."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pkedit.models import budgets
from pkedit.models.keys import Keys, narrow


@dataclass(frozen=True)
class _Written:
    """Where the tensors of a prompt stand in the file, one behind the other, and what each of them is."""

    offset: int
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


class ReadPrompts:
    """Keys and values of prompts without their last token, behind what all of them begin with; up to `limit` bytes.

    Only for a model that stays as it is, in one arithmetic. They wait in a temporary file that nobody else can open and
    that is gone with the process: what runs in between needs the memory. Each prompt is handed over once.
    """

    def __init__(self, *, limit: int = budgets.REMEMBERED_BYTES) -> None:
        # Closed when this object goes, which is when nobody wants the rest.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._written: dict[tuple[int, tuple[int, ...]], _Written] = {}
        self._end, self._limit = 0, limit

    def __len__(self) -> int:
        """How many prompts are waiting to be taken."""
        return len(self._written)

    def keep(self, prompt: Sequence[int], shared: int, parts: Sequence[Keys]) -> None:
        """Writes a copy; nothing where there is no more room, on the disk too.

        Args:
            prompt: all tokens of the prompt.
            shared: how many of them all prompts begin with.
            parts: keys and values of what follows, piece by piece, up to the last token but one.
        """
        name = (shared, tuple(prompt))
        tensors = [part for layers in zip(*parts, strict=True) for part in narrow(_joined(layers))]
        content = b"".join(part.contiguous().view(torch.uint8).cpu().numpy().tobytes() for part in tensors)
        if name in self._written or self._end + len(content) > self._limit:
            return
        self._file.seek(self._end)
        try:
            written = self._file.write(content)
        except OSError:
            written = 0
        if written < len(content):
            # The disk is full: what is missing is read again.
            self._limit = self._end
            return
        self._written[name] = _Written(self._end, tuple((part.shape, part.dtype, part.device) for part in tensors))
        self._end += len(content)

    def knows(self, prompt: Sequence[int], shared: int) -> bool:
        """Whether this prompt is waiting, behind its first `shared` tokens."""
        return (shared, tuple(prompt)) in self._written

    def take(self, prompt: Sequence[int], shared: int) -> Keys:
        """Hands over keys and values of a prompt that is waiting.

        Raises:
            KeyError: it is not.
        """
        place = self._written.pop((shared, tuple(prompt)))
        self._file.seek(place.offset)
        content = bytearray(sum(prod(shape) * dtype.itemsize for shape, dtype, _ in place.tensors))
        self._file.readinto(content)
        found: list[Tensor] = []
        offset = 0
        for shape, dtype, device in place.tensors:
            flat = torch.frombuffer(content, dtype=dtype, count=prod(shape), offset=offset)
            found.append(flat.view(shape).to(device))
            offset += prod(shape) * dtype.itemsize
        return list(zip(found[::2], found[1::2], strict=True))


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer, [heads, tokens, width], one piece behind the other."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([keys for keys, _ in parts], dim=1), torch.cat([values for _, values in parts], dim=1)
