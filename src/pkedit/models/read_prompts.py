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
    """Where the tensors of a prompt stand in the file, one behind the other, what each is, and what they stand behind.

    `beginning` are the tokens before them, which other prompts begin with too.
    """

    offset: int
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    beginning: tuple[int, ...]


class ReadPrompts:
    """Keys and values of prompts without their last token; up to `limit` bytes of them.

    Only for a model that stays as it is, in one arithmetic. They wait in a temporary file that nobody else can open and
    that is gone with the process: what runs in between needs the memory. Each prompt is handed over once.
    """

    def __init__(self, *, limit: int = budgets.REMEMBERED_BYTES) -> None:
        # Closed when this object goes, which is when nobody wants the rest.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._written: dict[tuple[int, ...], _Written] = {}
        self._beginnings: dict[tuple[int, ...], Keys] = {}
        self._end, self._limit = 0, limit

    def __len__(self) -> int:
        """How many prompts are waiting to be taken."""
        return len(self._written)

    def __contains__(self, prompt: Sequence[int]) -> bool:
        """Whether these tokens are a prompt that is waiting."""
        return tuple(prompt) in self._written

    def keep(self, prompt: Sequence[int], beginning: Keys | None, parts: Sequence[Keys]) -> None:
        """Writes a copy; nothing where there is no more room, on the disk too.

        Args:
            prompt: all tokens of the prompt.
            beginning: keys and values of what it begins with as other prompts do, if anything.
            parts: keys and values of what follows, piece by piece, up to the last token but one.
        """
        name = tuple(prompt)
        if name in self._written:
            return
        tensors = [part for layers in zip(*parts, strict=True) for part in narrow(_joined(layers))]
        if self._end + sum(part.nbytes for part in tensors) > self._limit:
            return
        content = b"".join(part.contiguous().view(torch.uint8).cpu().numpy().tobytes() for part in tensors)
        self._file.seek(self._end)
        try:
            written = self._file.write(content)
        except OSError:
            written = 0
        if written < len(content):
            # The disk is full: what is missing is read again.
            self._limit = self._end
            return
        before = name[: beginning[0][0].shape[1]] if beginning else ()
        if beginning and before not in self._beginnings:
            self._beginnings[before] = [narrow(layer) for layer in beginning]
        kinds = tuple((part.shape, part.dtype, part.device) for part in tensors)
        self._written[name] = _Written(self._end, kinds, before)
        self._end += len(content)

    def take(self, prompt: Sequence[int], shared: int) -> Keys:
        """Hands over keys and values of a prompt that is waiting, behind its first `shared` tokens.

        Raises:
            KeyError: it is not.
        """
        place = self._written.pop(tuple(prompt))
        self._file.seek(place.offset)
        content = bytearray(sum(prod(shape) * dtype.itemsize for shape, dtype, _ in place.tensors))
        self._file.readinto(content)
        found: list[Tensor] = []
        offset = 0
        for shape, dtype, device in place.tensors:
            flat = torch.frombuffer(content, dtype=dtype, count=prod(shape), offset=offset)
            found.append(flat.view(shape).to(device))
            offset += prod(shape) * dtype.itemsize
        own: Keys = list(zip(found[::2], found[1::2], strict=True))
        begun = len(place.beginning)
        if shared < begun:
            own = [_joined(layers) for layers in zip(self._beginnings[place.beginning], own, strict=True)]
            begun = 0
        return [(keys[:, shared - begun :], values[:, shared - begun :]) for keys, values in own]


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer, [heads, tokens, width], one piece behind the other."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([keys for keys, _ in parts], dim=1), torch.cat([values for _, values in parts], dim=1)
