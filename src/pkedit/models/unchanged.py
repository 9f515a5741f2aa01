"""What the layers below an edit gave for a prompt, so that they need not run again under another strength of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkedit.models.cut import Cut
from pkedit.models.keys import Keys, copied, lent


@dataclass(frozen=True, eq=False)
class _Read:
    """Of one prompt: keys and values of the lowest layers, and the states that leave them, [tokens, hidden]."""

    keys: Keys
    states: Tensor


class UnchangedLayers:
    """Remembers, prompt by prompt, what the first `layers` layers of a model gave.

    For prompts that are read again and again while only later layers change.
    """

    def __init__(self, blocks: Sequence[nn.Module], layers: int) -> None:
        self._cut = Cut(blocks[:layers])
        self._known: dict[tuple[int, ...], _Read] = {}

    def read(self, model: Any, ids: Tensor, prompts: Sequence[Sequence[int]], beginning: Keys | None) -> list[Keys]:
        """Keys and values of each prompt behind the beginning, the lowest layers run for prompts not seen before only.

        Args:
            model: what runs all layers, without its head.
            ids: the prompts behind the beginning, padded on the right, [prompts, tokens].
            prompts: all their tokens, without padding.
            beginning: keys and values of what all of them begin with.
        """
        before = beginning[0][0].shape[-2] if beginning else 0
        own = [prompt[before:] for prompt in prompts]
        # Two prompts that end alike may begin differently, so all tokens are the key, and where they were cut.
        named = [(before, *prompt) for prompt in prompts]
        cache = lent(beginning, len(own))
        known = [self._known[name] for name in named if name in self._known]
        if len(known) == len(own) and self._cut.below:
            states = torch.nn.utils.rnn.pad_sequence([one.states for one in known], batch_first=True)
            with self._cut.entered(states):
                model(input_ids=ids, past_key_values=cache, use_cache=True)
            upper = copied(cache, own, beginning, from_layer=len(self._cut.below))
            return [[*one.keys, *keys] for one, keys in zip(known, upper, strict=True)]
        with self._cut.recorded() as seen:
            model(input_ids=ids, past_key_values=cache, use_cache=True)
        read = copied(cache, own, beginning)
        if self._cut.below:
            for row, (name, keys) in enumerate(zip(named, read, strict=True)):
                states = seen[0][row, : len(own[row])].clone()
                self._known[name] = _Read(keys[: len(self._cut.below)], states)
        return read
