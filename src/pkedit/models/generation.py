"""Greedy answers to token prompts, in batches that answer as their members would alone.

Prompts are read in small batches of similar length, which hold little padding and stay in the processor's
caches; answers are then written in large ones, because every step reads all weights once however many answers
it continues.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pkedit.models.keys import Keys, has_window, read_beginning, roomy, side_by_side
from pkedit.models.memory import give_back_freed_memory, large_blocks_apart
from pkedit.models.read_prompts import ReadPrompts
from pkedit.models.reading import Remembered, passes, read_stems
from pkedit.models.sequences import shared_beginning, stems
from pkedit.models.unchanged import UnchangedLayers

# Padded tokens read at once. On two cores 1,024 took 0.6 of the time that 8,192 did.
READ_TOKENS = 1024
# Reading's share of the time of a batch, as far as progress is concerned.
READING = 0.5
# Is told what share of a batch is done.
Advance = Callable[[float], None]


class GreedyGenerator:
    """Answers prompts of one model. Make it for one set of prompts and while the model stays as it is.

    What several prompts of a batch begin with is read once. `unchanged` remembers the lowest layers from one generator
    to the next; `read` receives all prompts that are read. Without `reuse` every prompt is read from its first token,
    in batches of one length.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        padding: int,
        unchanged: UnchangedLayers | None = None,
        reuse: bool = True,
        read: ReadPrompts | None = None,
    ) -> None:
        self._model = model
        self._kept = read
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
        own, begins = self._read(prompts, advance)
        if self._kept is not None:
            for prompt, keys, begin in zip(prompts, own, begins, strict=True):
                self._kept.keep(prompt, self._beginning, [keys] if begin is None else [begin, keys])
        with large_blocks_apart():
            layers, mask = side_by_side(
                self._beginning,
                own,
                stems=begins,
                room=max_new_tokens,
                forget=True,
                padding_first=has_window(self._model),
            )
        del own, begins
        # What reading needed is of no use to writing: small blocks among what lives on, which nothing else fits into.
        give_back_freed_memory()
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

    def _read(self, prompts: Sequence[Sequence[int]], advance: Advance) -> tuple[list[Keys], list[Keys | None]]:
        """Keys and values of each prompt without its last token, behind what is shared and its stem, and its stem's.

        What several prompts begin with is read once, and the layers that have read these prompts before do not run.
        """
        own = [prompt[self._shared : -1] for prompt in prompts]
        # A stem as long as a prompt would leave nothing to read behind it.
        found = stems([ids[:-1] for ids in own])
        begins = {number: stem.tokens for number, stem in enumerate(found)}
        of = {member: number for number, stem in enumerate(found) for member in stem.members}
        lengths = [len(begins[of[index]]) if index in of else 0 for index in range(len(own))]
        behind = {index: ids[length:] for index, (ids, length) in enumerate(zip(own, lengths, strict=True))}
        # Two sequences that end alike may begin differently, so all tokens are the name, and where they were cut.
        shared = tuple(prompts[0][: self._shared])
        read_of_stems = read_stems(
            self._model,
            begins,
            self._beginning,
            tokens=READ_TOKENS,
            remembered=self._remembered({number: (shared, 0, tuple(begin)) for number, begin in begins.items()}),
        )
        reading = passes(
            self._model,
            behind,
            self._beginning,
            {index: read_of_stems[number] for index, number in of.items()},
            tokens=READ_TOKENS,
            remembered=self._remembered({n: (shared, lengths[n], tuple(ids)) for n, ids in enumerate(own)}),
        )
        read: dict[int, Keys] = {}
        for one in reading:
            read |= {index: one.copied(row, len(behind[index])) for row, index in enumerate(one.rows)}
            advance(READING * len(read) / len(prompts))
        order = range(len(prompts))
        return [read[index] for index in order], [read_of_stems[of[index]] if index in of else None for index in order]

    def _remembered(self, names: Mapping[int, Hashable]) -> Remembered | None:
        return None if self._unchanged is None else Remembered(self._unchanged, names)
