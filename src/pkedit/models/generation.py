"""Greedy answers to token prompts, in batches that answer as their members would alone.

Prompts are read in small batches of similar length, which hold little padding and stay in the processor's
caches; answers are then written in large ones, because every step reads all weights once however many answers
it continues.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pkedit.models.keys import Keys, has_window, read_beginning, roomy, side_by_side
from pkedit.models.memory import large_blocks_apart
from pkedit.models.reading import passes, read_stems
from pkedit.models.sequences import by_length, shared_beginning, stems
from pkedit.models.structure import body_of
from pkedit.models.unchanged import UnchangedLayers

# Padded tokens read at once. On two cores 1,024 took 0.6 of the time that 8,192 did.
READ_TOKENS = 1024
# Reading's share of the time of a batch, as far as progress is concerned.
READING = 0.5
# Is told what share of a batch is done.
Advance = Callable[[float], None]


class GreedyGenerator:
    """Answers prompts of one model. Make it for one set of prompts and while the model stays as it is.

    `unchanged` remembers the lowest layers from one generator to the next; without it nothing is remembered, and what
    several prompts of a batch begin with is read once. Without `reuse` every prompt is read from its first token, in
    batches of one length.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        padding: int,
        unchanged: UnchangedLayers | None = None,
        reuse: bool = True,
    ) -> None:
        self._model = model
        self._unchanged = unchanged
        self._padding = padding
        self._reuse = reuse
        # What is read before answers are written ends one token before the prompt, and is not empty.
        self._shared = shared_beginning([prompt[:-1] for prompt in prompts]) if reuse else 0
        self._beginning: Keys | None = None
        if self._shared:
            with torch.inference_mode():
                self._beginning = read_beginning(model, prompts[0][: self._shared])

    @torch.inference_mode()
    def answer(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, advance: Advance = lambda share: None
    ) -> Tensor:
        """The answer tokens, [prompts, up to max_new_tokens], filled with padding behind the end of an answer.

        `advance` is told now and then what share of it is done.
        """
        if not self._reuse:
            return self._answer_by_length(prompts, max_new_tokens, advance)
        own = self._read(prompts, advance)
        with large_blocks_apart():
            layers, mask = side_by_side(
                self._beginning, own, room=max_new_tokens, forget=True, padding_first=has_window(self._model)
            )
        mask = mask.to(self._model.get_input_embeddings().weight.device)
        read = mask.shape[1]
        # Of the tokens that were read already, generate() only counts the number.
        ids = torch.full((len(prompts), read + 1), self._padding, device=mask.device)
        ids[:, -1] = torch.tensor([prompt[-1] for prompt in prompts], device=mask.device)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)

        def written(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
            advance(READING + (1 - READING) * (tokens.shape[1] - ids.shape[1]) / max_new_tokens)
            return torch.zeros(len(prompts), dtype=torch.bool, device=tokens.device)

        return self._generate(
            ids, mask, max_new_tokens, past_key_values=roomy(layers, read), stopping_criteria=[written]
        )

    def _answer_by_length(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, advance: Advance) -> Tensor:
        """The same without a cache that was made before, and without padding."""
        device = self._model.get_input_embeddings().weight.device
        answers = torch.full((len(prompts), max_new_tokens), self._padding, device=device)
        done = 0
        for length in {len(prompt) for prompt in prompts}:
            members = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
            ids = torch.tensor([list(prompts[index]) for index in members], device=device)
            written = self._generate(ids, torch.ones_like(ids), max_new_tokens)
            answers[members, : written.shape[1]] = written
            done += len(members)
            advance(done / len(prompts))
        return answers

    def _generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, **cache: Any) -> Tensor:
        """What is written behind `ids`, [prompts, tokens]."""
        generated: Tensor = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # A chat model's saved sampling defaults would only raise warnings under greedy decoding.
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._padding,
            **cache,
        )
        return generated[:, ids.shape[1] :]

    def _read(self, prompts: Sequence[Sequence[int]], advance: Advance) -> list[Keys]:
        """Keys and values of each prompt behind what is shared, without its last token."""
        own = [prompt[self._shared : -1] for prompt in prompts]
        reading = self._read_shared(own) if self._unchanged is None else self._read_unchanged(self._unchanged, prompts)
        read: dict[int, Keys] = {}
        for members in reading:
            read |= members
            advance(READING * len(read) / len(prompts))
        return [read[index] for index in range(len(prompts))]

    def _read_shared(self, own: Sequence[Sequence[int]]) -> Iterator[dict[int, Keys]]:
        """Pass by pass, with what several prompts begin with read once."""
        # A stem as long as a prompt would leave nothing to read behind it.
        found = stems([ids[:-1] for ids in own])
        by_number = read_stems(
            self._model, {number: stem.tokens for number, stem in enumerate(found)}, self._beginning, tokens=READ_TOKENS
        )
        of = {member: number for number, stem in enumerate(found) for member in stem.members}
        lengths = [len(found[of[index]].tokens) if index in of else 0 for index in range(len(own))]
        behind = {index: ids[length:] for index, (ids, length) in enumerate(zip(own, lengths, strict=True))}
        keys = {index: by_number[number] for index, number in of.items()}
        for one in passes(self._model, behind, self._beginning, keys, tokens=READ_TOKENS):
            yield {
                # Copies, so that the batch can be forgotten.
                index: [(k.clone(), v.clone()) for k, v in one.keys(row, len(behind[index]), stem=lengths[index])]
                for row, index in enumerate(one.rows)
            }

    def _read_unchanged(
        self, unchanged: UnchangedLayers, prompts: Sequence[Sequence[int]]
    ) -> Iterator[dict[int, Keys]]:
        """Pass by pass, without the layers that have read these prompts before."""
        own = [prompt[self._shared : -1] for prompt in prompts]
        device = self._model.get_input_embeddings().weight.device
        for group in by_length([len(ids) for ids in own], tokens=READ_TOKENS):
            width = max(len(own[index]) for index in group)
            # Padding on the right: under causal attention no real token sees it, so no mask is needed.
            ids = torch.tensor([[*own[index], *[self._padding] * (width - len(own[index]))] for index in group])
            keys = unchanged.read(
                body_of(self._model), ids.to(device), [prompts[index][:-1] for index in group], self._beginning
            )
            yield dict(zip(group, keys, strict=True))
