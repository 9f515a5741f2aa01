"""Runs only the tokens where an answer is decided: prompts keep the keys and values that the unedited model gave them.

An edit is trained on hundreds of prompts, each of dozens of tokens, for the sake of the few tokens with which its
answer begins. So each prompt is read once; a step then runs the last prompt token and the answer through the upper
layers only. Left out is what the edit does to the prompt's own tokens: the result is an approximation while the
edit is learnt, and exact where the edit lies in the last layer.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import DynamicCache

from pkedit.models import budgets
from pkedit.models.attention import few_queries
from pkedit.models.batches import AnswerBatch, Dialogue, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.cut import Cut
from pkedit.models.keys import Keys, has_window, lent, narrow, read_beginning, side_by_side, taken
from pkedit.models.memory import give_back_freed_memory, large_blocks_apart
from pkedit.models.read_prompts import ReadPrompts
from pkedit.models.reading import Pass, passes, read_stems
from pkedit.models.sequences import by_length, shared_beginning, stems

# A long prompt is read in parts, so that what one pass needs stays small.
CHUNK = 1024


class FrozenPrompts:
    """Per dialogue: keys and values of its prompt from layer `lowest_layer` on, and the states that enter there.

    For the dialogues in `keep_final` the final states at the answer tokens, [answer tokens, hidden], are kept as
    well: with the head they give back the logits of the model as it was. With `few` dialogues, most of what a pass
    does is to read the weights, whatever the padding. Prompts that are in `read` are taken from there.
    """

    # How many tokens of a batch `final_states` runs apart, before the others.
    ahead = 0

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
        few: bool = False,
        read: ReadPrompts | None = None,
    ) -> None:
        self._chat = chat
        self._elsewhere = read
        self._few = few
        self._last: tuple[list[int], tuple[Keys, Tensor]] | None = None
        self._dialogues = list(dialogues)
        self._lowest = chat.first_layer_to_run(lowest_layer)
        self._cut = Cut(chat.blocks[: self._lowest])
        self._first = (first_tokens, first_weight)
        self._tokens_per_batch = tokens_per_batch
        self._keep_final = frozenset(keep_final)
        self._shared = shared_beginning([item.prompt for item in dialogues])
        self._padding_first = has_window(chat.model)
        self._stems = stems([item.prompt[self._shared : -1] for item in dialogues])
        self._stem_of = {place: number for number, stem in enumerate(self._stems) for place in stem.members}
        self._stem_keys: dict[int, Keys] = {}
        self._beginning: Keys | None = None
        self._keys: dict[int, Keys] = {}
        self._entering: dict[int, Tensor] = {}
        self._final: dict[int, Tensor] = {}

    def prepare(self, indices: Sequence[int]) -> None:
        """Reads the dialogues that were not read yet; call it while nothing is hooked into the model."""
        missing = {index for index in indices if index not in self._keys}
        if not missing:
            return
        self._read_beginning()
        missing -= self._take_over(missing)
        # All dialogues of a stem are read when the first of them is: its lower layers are not kept for the others.
        begun = {self._stem_of[index] for index in missing if index in self._stem_of}
        members = {place for number in begun for place in self._stems[number].members}
        missing |= {place for place in members if place not in self._keys}
        with torch.no_grad():
            self._read(sorted(missing), begun)

    def take(self, places: Sequence[int], dialogues: Sequence[Dialogue]) -> None:
        """Puts dialogues with one prompt in the places of others. The prompt is read once for all of them.

        Call it while nothing is hooked into the model. Keys and values are kept in the dtype of the weights, whatever
        the prompt was read in.

        Raises:
            ValueError: the prompts differ, or do not begin as the others do.
        """
        prompt, dtype = dialogues[0].prompt, self._chat.dtype
        others = self._dialogues[0].prompt[: self._shared]
        if any(item.prompt != prompt for item in dialogues) or prompt[: self._shared] != others:
            raise ValueError("dialogues that take others' places share one prompt, which begins as all others do")
        device = self._chat.device
        self._read_beginning()
        with torch.no_grad():
            cache = lent(self._beginning, 1)
            own = torch.tensor([prompt[self._shared : -1]], device=device)
            for part in torch.split(own, CHUNK, dim=1) if own.numel() else ():
                self._chat.body(input_ids=part, past_key_values=cache, use_cache=True)
            own_keys = taken(cache, 0, slice(self._shared, len(prompt) - 1), from_layer=self._lowest)
            keys = [(k.to(dtype, copy=True), v.to(dtype, copy=True)) for k, v in own_keys]
            width = max(len(item.answer) for item in dialogues)
            rows = [[prompt[-1], *item.answer[:-1], *[0] * (width - len(item.answer))] for item in dialogues]
            ids = torch.tensor(rows, device=device)
            final, entering = self._run(ids, lent(taken(cache, 0), len(dialogues)))
        self._last = None
        for row, (place, item) in enumerate(zip(places, dialogues, strict=True)):
            self._dialogues[place] = item
            self._stem_of.pop(place, None)
            self._keys[place] = keys
            self._keep_states(place, row, slice(len(item.answer)), final, entering)

    def groups(self, indices: Sequence[int]) -> list[list[int]]:
        """The same indices in batches of answers of the same length to prompts of similar length: little padding.

        Or all in one batch, where they are `few`.
        """
        if self._few:
            return [list(indices)]
        by_answer: dict[int, list[int]] = defaultdict(list)
        for index in indices:
            by_answer[len(self._dialogues[index].answer)].append(index)
        budget = budgets.frozen(self._tokens_per_batch, self._chat.device.type)
        return [
            [members[place] for place in places]
            for _, members in sorted(by_answer.items())
            for places in by_length([len(self._dialogues[index]) for index in members], tokens=budget)
        ]

    def batch(
        self, group: Sequence[int], *, limit: int | None = None, first: tuple[int, float] | None = None
    ) -> AnswerBatch:
        """The dialogues of `group`, each from its last prompt token on; of the answers, at most `limit` tokens.

        `first`: how many answer tokens weigh how much more, where it is not as in training.
        """
        first_tokens, first_weight = first or self._first
        dialogues = [self._dialogues[index] for index in group]
        return make_batch(
            [Dialogue(item.prompt[-1:], item.answer[:limit]) for item in dialogues],
            first_tokens=first_tokens,
            first_weight=first_weight,
            device=self._chat.device,
        )

    def final_states(self, group: Sequence[int], batch: AnswerBatch) -> Tensor:
        """Final states [dialogues, tokens, hidden] of the model as it is now, at the tokens of `batch`."""
        layers, mask = self._side_by_side(group)
        # Nothing is predicted from the last answer token.
        ids = batch.ids[:, :-1]
        # The skipped layers hold nothing, but the first layer's length tells the model how far it is.
        nothing = torch.zeros(1, 1, mask.shape[1], 1, device=ids.device)
        entering = None
        if self._cut.below:
            states = [self._entering[index][: ids.shape[1]] for index in group]
            entering = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        cache = DynamicCache([(nothing, nothing)] * self._lowest + layers)
        # Each layer puts its new keys behind these, in a copy: the others need not wait in memory for the end.
        del layers
        with self._cut.entered(entering):
            return self._behind_prompts(group, ids, cache, mask)

    def _behind_prompts(self, group: Sequence[int], ids: Tensor, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Final states at `ids`, [dialogues, tokens], which stand behind prompts of which `mask` says what counts."""
        # Made beside the keys, which lie where their layers do; it enters the model where the tokens do.
        mask = mask.to(ids.device)
        read = torch.tensor([len(self._dialogues[index].prompt) - 1 for index in group], device=mask.device)
        with few_queries(self._chat.model):
            final: Tensor = self._chat.body(
                input_ids=ids,
                attention_mask=torch.nn.functional.pad(mask, (0, ids.shape[1]), value=1),
                position_ids=read.unsqueeze(1) + torch.arange(ids.shape[1], device=mask.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        return final

    def _side_by_side(self, group: Sequence[int]) -> tuple[Keys, Tensor]:
        """Keys and values of a batch, and its mask; of few dialogues those of the last batch are kept."""
        if self._last is not None and self._last[0] == list(group):
            return self._last[1]
        upper = self._beginning[self._lowest :] if self._beginning else None
        merged = side_by_side(
            upper,
            [self._keys[index] for index in group],
            stems=[self._stem_keys[self._stem_of[index]] if index in self._stem_of else None for index in group],
            padding_first=self._padding_first,
        )
        if self._few:
            self._last = (list(group), merged)
        return merged

    def ending_at(self, layer: int) -> AbstractContextManager[None]:
        """Passes made inside need not run the layers above `layer`: their final states are not looked at."""
        return self._cut.ending(self._chat.blocks[layer + 1 :])

    def original(self, index: int) -> Tensor:
        """The final states at the answer tokens of dialogue `index` when it was prepared."""
        return self._final[index]

    @torch.no_grad()
    def _read_beginning(self) -> None:
        """Reads what all prompts begin with, if there is such and it was not read yet."""
        if self._shared and self._beginning is None:
            self._beginning = read_beginning(self._chat.model, self._dialogues[0].prompt[: self._shared])

    def _read(self, indices: Sequence[int], begun: Collection[int]) -> None:
        """Reads dialogues behind the beginning, and their stems, `begun`, before them."""
        tokens = budgets.read(self._tokens_per_batch, self._chat.device.type)
        stem_keys = read_stems(
            self._chat.model, {number: self._stems[number].tokens for number in begun}, self._beginning, tokens=tokens
        )
        own = {}
        behind = {}
        for index in indices:
            item, number = self._dialogues[index], self._stem_of.get(index)
            if number is not None:
                behind[index] = stem_keys[number]
            own[index] = [*item.prompt, *item.answer][self._read_before(index) :]
        with self._cut.recorded() as seen:
            for one in passes(self._chat.model, own, self._beginning, behind, tokens=tokens):
                self._keep(one, seen[-1] if seen else None)
                seen.clear()
        for number, keys in stem_keys.items():
            self._stem_keys[number] = [narrow(layer) for layer in keys[self._lowest :]]

    @torch.no_grad()
    def _take_over(self, indices: Collection[int]) -> set[int]:
        """Takes what was read elsewhere of these dialogues' prompts; returns whose. Of these only the answers run."""
        elsewhere = self._elsewhere
        if elsewhere is None:
            return set()
        # A prompt is handed over once, whatever the number of its dialogues.
        known = {self._dialogues[index].prompt: index for index in sorted(indices, reverse=True)}
        found = sorted(index for prompt, index in known.items() if prompt in elsewhere)
        if not found:
            return set()
        for group in self.groups(found):
            keys = [elsewhere.take(self._dialogues[index].prompt, self._shared) for index in group]
            self._run_answers(group, keys)
            for index, own in zip(group, keys, strict=True):
                upper, stem = own[self._lowest :], self._read_before(index) - self._shared
                number = self._stem_of.get(index)
                if number is not None and number not in self._stem_keys:
                    self._stem_keys[number] = [narrow((k[:, :stem], v[:, :stem])) for k, v in upper]
                self._keys[index] = [narrow((k[:, stem:], v[:, stem:])) for k, v in upper]
        # What came from the file, and stood side by side once.
        give_back_freed_memory()
        return set(found)

    def _run_answers(self, group: Sequence[int], keys: Sequence[Keys]) -> None:
        """Keeps the states of dialogues whose prompts' keys and values are known in all layers."""
        ids = self.batch(group).ids[:, :-1]
        with large_blocks_apart():
            layers, mask = side_by_side(self._beginning, keys, padding_first=self._padding_first)
        with self._cut.recorded() as seen:
            final = self._behind_prompts(group, ids, DynamicCache(layers), mask)
        for row, index in enumerate(group):
            decisive = slice(len(self._dialogues[index].answer))
            self._keep_states(index, row, decisive, final, seen[0] if seen else None)

    def _keep(self, one: Pass, entering: Tensor | None) -> None:
        """Copies, so that the padded batch can be forgotten."""
        for row, index in enumerate(one.rows):
            item, before = self._dialogues[index], self._read_before(index)
            last = len(item.prompt) - 1
            self._keys[index] = [narrow(layer) for layer in one.keys(row, last - before, from_layer=self._lowest)]
            # The last answer token is never read on from.
            decisive = slice(last - before, len(item) - 1 - before)
            self._keep_states(index, row, decisive, one.final, entering)

    def _keep_states(self, index: int, row: int, decisive: slice, final: Tensor, entering: Tensor | None) -> None:
        """Copies of what a row of a pass, [rows, tokens, hidden], gave at the tokens that decide the answer."""
        if entering is not None:
            self._entering[index] = entering[row, decisive].clone()
        if index in self._keep_final:
            self._final[index] = final[row, decisive].clone()

    def _read_before(self, index: int) -> int:
        """How many tokens of a dialogue are read for others as well."""
        number = self._stem_of.get(index)
        return self._shared + (0 if number is None else len(self._stems[number].tokens))

    def _run(self, ids: Tensor, cache: DynamicCache) -> tuple[Tensor, Tensor | None]:
        """Final states, and those that enter the lowest layer that is run later, if there are any below it."""
        with self._cut.recorded() as seen:
            final: Tensor = self._chat.body(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        return final, seen[0] if seen else None
