"""How far a model has moved on harmless answers: KL to the original and perplexity, from stored original states."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.models.batches import (
    AnswerBatch,
    answer_states,
    divergence,
    kept_dialogues,
    log_likelihoods,
    make_batch,
    state_likelihoods,
)
from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks
from pkedit.models.sequences import by_length
from pkedit.prompts.types import Demonstration


@dataclass(frozen=True)
class Drift:
    """Per harmless answer: mean KL(original ‖ edited) and mean NLL of the original's tokens, nats per token."""

    divergence: tuple[float, ...]
    negative_log_likelihood: tuple[float, ...]


class DriftMeter:
    """Holds what the original model predicts on its own harmless answers; measures any later state against it.

    Make it while the model is unedited. The final hidden states are stored, not the logits: they are a
    hundred times smaller, and the head, which no edit touches, gives the same logits back.
    """

    def __init__(self, chat: ChatModel, answers: Sequence[Demonstration], *, limit: int, tokens: int = 1024) -> None:
        self._chat = chat
        self._dialogues = [item for item in kept_dialogues(chat, answers, limit=limit) if item.answer]
        self._groups = by_length([len(item) for item in self._dialogues], tokens=tokens)
        self._original = [self._states(group) for group in self._groups]

    def measure(self) -> Drift:
        """The drift of the model as it is now."""
        return self._drift(
            (batch, self._per_token(original, answer_states(self._chat, batch), batch.target))
            for batch, original in self._batches()
        )

    def original(self) -> Drift:
        """What `measure` gives for the unedited model, without another pass through it: no divergence."""
        return self._drift(
            (batch, torch.stack([torch.zeros_like(likely), likely], dim=-1))
            for batch, original in self._batches()
            for likely in [state_likelihoods(self._chat, original, batch.target)]
        )

    def _batches(self) -> Iterator[tuple[AnswerBatch, Tensor]]:
        for group, original in zip(self._groups, self._original, strict=True):
            yield self._batch(group), original

    @torch.no_grad()
    def _drift(self, scored: Iterable[tuple[AnswerBatch, Tensor]]) -> Drift:
        """From KL and log p of each token of each batch, [answer tokens, 2]."""
        moved: dict[int, float] = {}
        surprise: dict[int, float] = {}
        for group, (batch, values) in zip(self._groups, scored, strict=True):
            shift, likely = values.unbind(-1)
            moved.update(zip(group, batch.per_dialogue(shift).tolist(), strict=True))
            surprise.update(zip(group, batch.per_dialogue(-likely).tolist(), strict=True))
        order = range(len(self._dialogues))
        return Drift(tuple(moved[index] for index in order), tuple(surprise[index] for index in order))

    def _per_token(self, original: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        """KL to the original and log p of each token: [answer tokens, 2]."""

        def score(part: Tensor, place: slice) -> Tensor:
            logits = self._chat.head(part)
            moved = divergence(self._chat.head(original[place]), logits)
            return torch.stack([moved, log_likelihoods(logits, targets[place])], dim=-1)

        return in_chunks(states, score)

    def _batch(self, group: Sequence[int]) -> AnswerBatch:
        return make_batch(
            [self._dialogues[index] for index in group], first_tokens=0, first_weight=1.0, device=self._chat.device
        )

    @torch.no_grad()
    def _states(self, group: Sequence[int]) -> Tensor:
        return answer_states(self._chat, self._batch(group))
