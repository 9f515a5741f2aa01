"""Runs only what can have changed: the layers from one on, and the shared beginning of the prompts once.

Below the lowest edited layer nothing changes, so the states that enter it are stored. Chat templates open every
prompt with the same tokens (a system message); under causal attention these give every dialogue the same keys
and values, so each batch computes them for one row, with gradient, and lends them to the others.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache

from pkedit.models.batches import AnswerBatch, Dialogue, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.cut import Cut
from pkedit.models.keys import lent, taken
from pkedit.models.sequences import by_length, shared_beginning


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
        self._cut = Cut(chat.blocks[: chat.first_layer_to_run(lowest_layer)])
        self._first = (first_tokens, first_weight)
        self._tokens_per_batch = tokens_per_batch
        self._keep_final = frozenset(keep_final)
        self._entering: dict[int, Tensor] = {}
        self._final: dict[int, Tensor] = {}
        self._prepared: set[int] = set()
        self._shared = 0 if chat.cannot_reuse else shared_beginning([item.prompt for item in dialogues])
        self._shared_entering: Tensor | None = None

    @property
    def ahead(self) -> int:
        """How many tokens of a batch `final_states` runs apart, before the others."""
        return self._shared

    def prepare(self, indices: Sequence[int]) -> None:
        """Computes what is not stored yet for these dialogues; call it while nothing is hooked into the model."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._prepared]
        for wanted in (True, False):
            # Where no final states are kept, the pass ends at the lowest edited layer.
            members = [index for index in missing if (index in self._keep_final) is wanted]
            if not wanted and not self._cut.below:
                continue
            lengths = [len(self._dialogues[index]) for index in members]
            for places in by_length(lengths, tokens=self._tokens_per_batch):
                self._fill([members[place] for place in places], keep_final=wanted)
        self._prepared.update(missing)

    def groups(self, indices: Sequence[int]) -> list[list[int]]:
        """The same indices in batches of similar length."""
        lengths = [len(self._dialogues[index]) for index in indices]
        return [[indices[place] for place in places] for places in by_length(lengths, tokens=self._tokens_per_batch)]

    def batch(self, group: Sequence[int], *, limit: int | None = None) -> AnswerBatch:
        """The dialogues of `group` as one batch; of the answers, at most `limit` tokens."""
        first_tokens, first_weight = self._first
        dialogues = [self._dialogues[index] for index in group]
        return make_batch(
            [Dialogue(item.prompt, item.answer[:limit]) for item in dialogues],
            first_tokens=first_tokens,
            first_weight=first_weight,
            device=self._chat.device,
        )

    def final_states(self, group: Sequence[int], batch: AnswerBatch) -> Tensor:
        """Final states [dialogues, tokens, hidden] of the model as it is now, running only the upper layers."""
        if not self._cut.below:
            return self._forward(batch, None)
        tokens = batch.ids.shape[1] - self._shared
        states = [self._entering[index][:tokens] for index in group]
        return self._forward(batch, torch.nn.utils.rnn.pad_sequence(states, batch_first=True))

    def ending_at(self, layer: int) -> AbstractContextManager[None]:
        """Passes made inside need not run the layers above `layer`: their final states are not looked at."""
        return self._cut.ending(self._chat.blocks[layer + 1 :])

    def original(self, index: int) -> Tensor:
        """The final states at the answer tokens of dialogue `index` when it was prepared."""
        return self._final[index]

    def _forward(self, batch: AnswerBatch, entering: Tensor | None) -> Tensor:
        """Final states; from `entering`, [dialogues, tokens behind the shared ones, hidden], where it is given."""
        shared = self._shared
        if not shared:
            return self._upper(batch.ids, entering, None)
        cache = DynamicCache()
        self._upper(batch.ids[:1, :shared], None if entering is None else self._shared_entering, cache)
        skipped = 0 if entering is None else len(self._cut.below)
        for layer in range(skipped):
            # The skipped layers hold nothing, but the first layer's length tells the model how far it is.
            nothing = torch.zeros(1, 1, shared, 1, device=batch.ids.device)
            cache.update(nothing, nothing, layer)
        states = self._upper(batch.ids[:, shared:], entering, lent(taken(cache, 0), len(batch)))
        # Positions of the shared tokens are never asked for: no answer begins there.
        return torch.nn.functional.pad(states, (0, 0, shared, 0))

    def _upper(self, ids: Tensor, entering: Tensor | None, cache: DynamicCache | None) -> Tensor:
        body = self._chat.body
        with nullcontext() if entering is None else self._cut.entered(entering):
            states: Tensor = body(input_ids=ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
        return states

    @torch.no_grad()
    def _fill(self, group: Sequence[int], *, keep_final: bool) -> None:
        batch = self.batch(group)
        unneeded = [] if keep_final else self._chat.blocks[len(self._cut.below) :]
        with self._cut.recorded() as seen, self._cut.ending(unneeded):
            final = self._forward(batch, None)
        if keep_final:
            batch = batch.to(final.device)
            for row, index in enumerate(group):
                self._final[index] = final[row, batch.column[batch.row == row]].clone()
        if not self._cut.below:
            return
        if self._shared:
            self._shared_entering = seen[0]
        for row, index in enumerate(group):
            self._entering[index] = seen[-1][row, : len(self._dialogues[index]) - self._shared].clone()
