"""Runs only the upper part of a model, from stored inputs of one layer, while nothing below it changes."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, Dialogue, by_length, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import outputs_of, skipped_blocks


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
        if not self._below:
            return self._run(batch)
        entering = torch.nn.utils.rnn.pad_sequence([self._entering[index] for index in group], batch_first=True)
        with skipped_blocks(self._below, entering, as_tuple=self._as_tuple):
            return self._run(batch)

    def original(self, index: int) -> Tensor:
        """The final states at the answer tokens of dialogue `index` when it was prepared."""
        return self._final[index]

    def _run(self, batch: AnswerBatch) -> Tensor:
        states: Tensor = self._chat.model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
        return states

    @torch.no_grad()
    def _fill(self, group: Sequence[int]) -> None:
        batch = self.batch(group)
        seen: list[Tensor] = []

        def receive(_: int, output: Tensor | tuple[Tensor, ...]) -> None:
            self._as_tuple = isinstance(output, tuple)
            seen.append(output[0] if isinstance(output, tuple) else output)

        with outputs_of(self._below[-1:], receive):
            final = self._run(batch)
        for row, index in enumerate(group):
            if seen:
                self._entering[index] = seen[0][row, : len(self._dialogues[index])].clone()
            if index in self._keep_final:
                self._final[index] = final[row, batch.column[batch.row == row]].clone()
