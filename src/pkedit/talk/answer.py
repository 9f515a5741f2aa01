"""One answer in the making, a token at a time, so that two can be written in turn by one copy of the weights.

Each token is one call of the model's own `generate`: what it does with penalties, ends and caches stays its own, and a
streamer, which runs a whole answer in a thread of its own, would leave no place to change sides between tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkedit.talk.firing import WatchedNeurons
from pkedit.talk.subject import Subject

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, eq=False)
class Memory:
    """What the model has computed for tokens, at one strength of the edit: its cache."""

    tokens: tuple[int, ...]
    cache: Any
    strength: float

    def serves(self, prompt: Sequence[int], strength: float) -> bool:
        """Whether it is the beginning of what is to be read now."""
        known = len(self.tokens)
        return self.strength == strength and known < len(prompt) and tuple(prompt[:known]) == self.tokens


class Answer:
    """Greedy, as everything that is measured. `text` is what there is so far; `fired` comes with the first token."""

    def __init__(
        self,
        subject: Subject,
        prompt: Sequence[int],
        strength: float,
        *,
        limit: int,
        memory: Memory | None = None,
        watched: WatchedNeurons | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            subject: who answers.
            prompt: the token ids of the conversation up to the answer.
            strength: of the edit.
            limit: tokens to write at most.
            memory: what was computed for an earlier part of the conversation; used where it fits.
            watched: neurons whose activation at the last prompt token is recorded.
        """
        self._subject = subject
        self._strength = strength
        self._limit = limit
        self._prompt = list(prompt)
        self._written: list[int] = []
        self._watched = watched
        self.memory = memory if memory is not None and memory.serves(prompt, strength) else None
        self.fired: Tensor | None = None

    @property
    def text(self) -> str:
        """Without the bytes of a character that is not complete yet."""
        return self._decoded().rstrip(UNFINISHED).rstrip()

    @property
    def finished_text(self) -> str:
        """All that was written."""
        return self._decoded()

    def advance(self) -> bool:
        """Writes one more token; False at the end of the answer."""
        if len(self._written) >= self._limit:
            return False
        tokens = [*self._prompt, *self._written]
        with self._subject.speaking(self._strength):
            token = self._next(tokens)
        if token in self._ends():
            return False
        self._written.append(token)
        return True

    def _next(self, tokens: list[int]) -> int:
        chat = self._subject.chat
        ids = torch.tensor([tokens], device=chat.device)
        arguments = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": 1,
            "do_sample": False,
            # A chat model's saved sampling defaults would only raise warnings under greedy decoding.
            **dict.fromkeys(("temperature", "top_p", "top_k")),
            "pad_token_id": chat.tokenizer.pad_token_id,
            "past_key_values": None if self.memory is None else self.memory.cache,
            "return_dict_in_generate": True,
        }
        unread = len(tokens) - (0 if self.memory is None else len(self.memory.tokens))
        with torch.inference_mode():
            if self._watched is not None and not self._written:
                with self._watched.recorded([unread - 1]) as seen:
                    output = chat.model.generate(input_ids=ids, **arguments)
                self.fired = seen.activations()[0]
            else:
                output = chat.model.generate(input_ids=ids, **arguments)
        cache = getattr(output, "past_key_values", None)
        self.memory = None if cache is None else Memory(tuple(tokens), cache, self._strength)
        return int(output.sequences[0, -1])

    def _ends(self) -> set[int]:
        end = self._subject.chat.model.generation_config.eos_token_id
        return {end} if isinstance(end, int) else set(end or ())

    def _decoded(self) -> str:
        decoded: str = self._subject.chat.tokenizer.decode(self._written, skip_special_tokens=True)
        return decoded.strip()
