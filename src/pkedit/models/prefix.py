"""Runs only what can have changed: the layers from one on, and the shared beginning of the prompts once.

Below the lowest edited layer nothing changes, so the states that enter it are stored. Chat templates open every
prompt with the same tokens (a system message); under causal attention these give every dialogue the same keys
and values, so each batch computes them for one row, with gradient, and lends them to the others.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pkedit.models.batches import AnswerBatch, Dialogue, by_length, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import outputs_of, skipped_blocks

# A shorter shared beginning costs more in bookkeeping than it saves.
WORTH_SHARING = 8


class PrefixCache:
    """The states that enter layer `lowest_layer`, [tokens, hidden] per dialogue, computed once when first needed.

    For the dialogues in `keep_final` the final states at the answer tokens, [answer tokens, hidden], are kept as
    well. They are small, and with the head give back the logits of the model as it was.
    """

    def __init__(
        self,
        chat: ChatModel,
        dialogues: Sequence[Dialogue],
        lowest_layer: int,
        *,
        first_tokens: int,
        first_weight: float,
        tokens_per_batch: int,
        keep_final: Collection[int] = (),
    ) -> None:
        self._chat = chat
        self._dialogues = dialogues
        self._below = chat.blocks[:lowest_layer]
        self._as_tuple = False
        self._first = (first_tokens, first_weight)
        self._tokens_per_batch = tokens_per_batch
        self._keep_final = frozenset(keep_final)
        self._entering: dict[int, Tensor] = {}
        self._final: dict[int, Tensor] = {}
        self._prepared: set[int] = set()
        self._shared = _shared_tokens(dialogues)

    def prepare(self, indices: Sequence[int]) -> None:
        """Computes what is not stored yet for these dialogues; call it while nothing is hooked into the model."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._prepared]
        if not self._below:
            missing = [index for index in missing if index in self._keep_final]
        lengths = [len(self._dialogues[index]) for index in missing]
        for places in by_length(lengths, tokens=self._tokens_per_batch):
            self._fill([missing[place] for place in places])
        self._prepared.update(missing)

    def batch(self, group: Sequence[int]) -> AnswerBatch:
        """The dialogues of `group` as one batch."""
        first_tokens, first_weight = self._first
        return make_batch(
            [self._dialogues[index] for index in group],
            first_tokens=first_tokens,
            first_weight=first_weight,
            device=self._chat.device,
        )

    def final_states(self, group: Sequence[int], batch: AnswerBatch) -> Tensor:
        """Final states [dialogues, tokens, hidden] of the model as it is now, running only the upper layers."""
        shared = self._shared if len(group) > 1 else 0
        entering = None
        if self._below:
            entering = torch.nn.utils.rnn.pad_sequence([self._entering[index] for index in group], batch_first=True)
        if shared < WORTH_SHARING:
            return self._upper(batch.ids, entering, None)
        cache = DynamicCache()
        self._upper(batch.ids[:1, :shared], None if entering is None else entering[:1, :shared], cache)
        for layer in range(len(self._below)):
            # The skipped layers hold nothing, but the first layer's length tells the model how far it is.
            nothing = torch.zeros(1, 1, shared, 1, device=batch.ids.device)
            cache.update(nothing, nothing, layer)
        kept: Any
        for kept in cache.layers[len(self._below) :]:
            kept.keys = kept.keys.expand(len(group), -1, -1, -1)
            kept.values = kept.values.expand(len(group), -1, -1, -1)
        states = self._upper(batch.ids[:, shared:], None if entering is None else entering[:, shared:], cache)
        # Positions of the shared tokens are never asked for: no answer begins there.
        return torch.nn.functional.pad(states, (0, 0, shared, 0))

    def original(self, index: int) -> Tensor:
        """The final states at the answer tokens of dialogue `index` when it was prepared."""
        return self._final[index]

    def _upper(self, ids: Tensor, entering: Tensor | None, cache: DynamicCache | None) -> Tensor:
        base = self._chat.model.base_model
        jump = nullcontext() if entering is None else skipped_blocks(self._below, entering, as_tuple=self._as_tuple)
        with jump:
            states: Tensor = base(input_ids=ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
        return states

    @torch.no_grad()
    def _fill(self, group: Sequence[int]) -> None:
        batch = self.batch(group)
        seen: list[Tensor] = []

        def receive(_: int, output: Tensor | tuple[Tensor, ...]) -> None:
            self._as_tuple = isinstance(output, tuple)
            seen.append(output[0] if isinstance(output, tuple) else output)

        with outputs_of(self._below[-1:], receive):
            final = self._upper(batch.ids, None, None)
        for row, index in enumerate(group):
            if seen:
                self._entering[index] = seen[0][row, : len(self._dialogues[index])].clone()
            if index in self._keep_final:
                self._final[index] = final[row, batch.column[batch.row == row]].clone()


def _shared_tokens(dialogues: Sequence[Dialogue]) -> int:
    """How many tokens all prompts begin with; the last prompt token, which predicts the answer, never counts."""
    prompts = [item.prompt for item in dialogues]
    if not prompts:
        return 0
    limit = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next(
        (place for place in range(limit) if any(prompt[place] != first[place] for prompt in prompts)), max(limit, 0)
    )
