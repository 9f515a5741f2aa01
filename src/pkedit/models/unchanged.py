"""What the layers below an edit gave for a prompt, so that they need not run again under another strength of it."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from pkedit.models import budgets
from pkedit.models.cut import Cut
from pkedit.models.keys import Keys


@dataclass(frozen=True, eq=False)
class Known:
    """Of one sequence: keys and values of the lowest layers, and the states that leave them, [tokens, hidden]."""

    keys: Keys
    states: Tensor


class UnchangedLayers:
    """Remembers, sequence by sequence, what the first `layers` layers of a model gave.

    For prompts that are read again and again while only later layers change. Where `limit` bytes are full, further
    sequences are read as ever.
    """

    def __init__(self, blocks: Sequence[nn.Module], layers: int, *, limit: int = budgets.REMEMBERED_BYTES) -> None:
        self._cut = Cut(blocks[:layers])
        self._known: dict[Hashable, Known] = {}
        self._left = limit

    def known(self, names: Sequence[Hashable]) -> list[Known] | None:
        """What is known of these sequences; None unless it is known of all."""
        found = [self._known[name] for name in names if name in self._known]
        return found if found and len(found) == len(names) else None

    def remember(self, name: Hashable, keys: Keys, states: Tensor) -> None:
        """Keeps copies. `keys` of the lowest layers at least, and the states that left them, of the same tokens."""
        lowest = keys[: len(self._cut.below)]
        size = sum(part.nbytes for part in (states, *chain.from_iterable(lowest)))
        if lowest and name not in self._known and size <= self._left:
            self._left -= size
            self._known[name] = Known([(key.clone(), value.clone()) for key, value in lowest], states.clone())

    def recorded(self) -> AbstractContextManager[list[Tensor]]:
        """A list that receives the states which leave the lowest layers, one entry for each pass."""
        return self._cut.recorded()

    def skipped(self, known: Sequence[Known]) -> AbstractContextManager[None]:
        """Passes over these sequences, padded on the right, made inside begin behind the lowest layers."""
        return self._cut.entered(torch.nn.utils.rnn.pad_sequence([one.states for one in known], batch_first=True))
