"""Passes over a few dialogues that leave out what all their prompts begin with.

What is read before the first difference is the same in harmful and in harmless prompts, so it explains nothing. There
too are the few neurons that are huge at the first token of any text (Sun et al. 2024, arXiv 2402.17762), which would
otherwise be all that a picture of the pathway shows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, Dialogue, make_batch, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.keys import lent, read_beginning
from pkedit.models.precision import gradient_scale
from pkedit.models.sequences import by_length


class Passes:
    """Makes passes over dialogues whose prompts all begin with `shared` tokens, which count nothing.

    These are read once where their keys and values can be reused; otherwise every pass reads them again.
    """

    def __init__(
        self,
        chat: ChatModel,
        dialogues: Sequence[Dialogue],
        *,
        first_tokens: int,
        first_weight: float,
        tokens_per_batch: int,
    ) -> None:
        """`dialogues` are all that passes will be made over; the rest is as in `make_batch` and `by_length`."""
        self.chat = chat
        self._first = (first_tokens, first_weight)
        self._tokens_per_batch = tokens_per_batch
        self.shared = shared_tokens([item.prompt for item in dialogues])
        self._cut = 0 if chat.cannot_reuse else self.shared
        with torch.no_grad(), chat.frozen():
            self._beginning = read_beginning(chat.model, dialogues[0].prompt[: self._cut]) if self._cut else None

    def groups(self, dialogues: Sequence[Dialogue]) -> list[list[int]]:
        """Indices of the dialogues of each pass, similar lengths together."""
        return by_length([len(item) - self._cut for item in dialogues], tokens=self._tokens_per_batch)

    def batch(self, dialogues: Sequence[Dialogue]) -> AnswerBatch:
        """The tokens of one pass."""
        first_tokens, first_weight = self._first
        return make_batch(
            [Dialogue(item.prompt[self._cut :], item.answer) for item in dialogues],
            first_tokens=first_tokens,
            first_weight=first_weight,
            device=self.chat.device,
        )

    def counted(self, dialogues: Sequence[Dialogue]) -> Tensor:
        """Which tokens of their batch count: neither padding nor what all prompts begin with, [rows · tokens]."""
        lengths = torch.tensor([[len(item) - self._cut] for item in dialogues])
        place = torch.arange(int(lengths.max())).unsqueeze(0)
        return ((place >= self.shared - self._cut) & (place < lengths)).flatten()

    def run(self, batch: AnswerBatch) -> Tensor:
        """Final states, [rows, tokens, hidden]."""
        cache = None if self._beginning is None else lent(self._beginning, len(batch))
        output = self.chat.body(input_ids=batch.ids, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = output.last_hidden_state
        return states

    def run_back(self, batch: AnswerBatch, signs: Sequence[float]) -> None:
        """Forward and backward, of Q = Σ sign · log p(answer | prompt), times `gradient_scale`."""
        likelihoods = state_likelihoods(self.chat, batch.at_answers(self.run(batch)), batch.target)
        scores = batch.per_dialogue(likelihoods)
        quantity = (scores * torch.tensor(signs, device=scores.device)).sum() * gradient_scale(self.chat)
        quantity.backward()  # type: ignore[no-untyped-call]


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; the last prompt token, which predicts the answer, never counts."""
    together = enumerate(zip(*prompts, strict=False))
    differing = (place for place, tokens in together if len(set(tokens)) > 1)
    return min(next(differing, len(prompts[0])), min(map(len, prompts)) - 1)
