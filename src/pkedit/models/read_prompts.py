"""Prompts that were read once and are wanted again: an edit learns from those that answers were sampled to."""

from collections.abc import Sequence
from itertools import chain

import torch

from pkedit.models import budgets
from pkedit.models.keys import Keys, narrow


class ReadPrompts:
    """Keys and values of prompts without their last token, behind what all of them begin with; up to `limit` bytes.

    Only for a model that stays as it is, in one arithmetic. Each prompt is handed over once: who takes it holds it.
    """

    def __init__(self, *, limit: int = budgets.REMEMBERED_BYTES) -> None:
        self._keys: dict[tuple[int, tuple[int, ...]], Keys] = {}
        self._left = limit

    def __len__(self) -> int:
        """How many prompts are waiting to be taken."""
        return len(self._keys)

    def keep(self, prompt: Sequence[int], shared: int, parts: Sequence[Keys]) -> None:
        """Keeps a copy.

        Args:
            prompt: all tokens of the prompt.
            shared: how many of them all prompts begin with.
            parts: keys and values of what follows, piece by piece, up to the last token but one.
        """
        name = (shared, tuple(prompt))
        # Outside of inference mode, or no gradient could pass through what is computed from them.
        with torch.inference_mode(False):
            # One by one, for a joined copy of all layers would be in memory beside the narrow one.
            keys = [narrow(_joined(layers)) for layers in zip(*parts, strict=True)]
        size = sum(part.nbytes for part in chain.from_iterable(keys))
        if name not in self._keys and size <= self._left:
            self._left -= size
            self._keys[name] = keys

    def take(self, prompt: Sequence[int], shared: int) -> Keys | None:
        """Hands over what is known of this prompt behind its first `shared` tokens; None if nothing is."""
        return self._keys.pop((shared, tuple(prompt)), None)


def _joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer, [heads, tokens, width], one piece behind the other."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([keys for keys, _ in parts], dim=1), torch.cat([values for _, values in parts], dim=1)
