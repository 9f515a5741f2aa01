"""How far a model has moved on harmless answers: KL to the original and perplexity, from stored original states."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, divergence, kept_dialogues, log_likelihoods, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks
from pkedit.models.prefix import PrefixCache
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

    def __init__(
        self,
        chat: ChatModel,
        answers: Sequence[Demonstration],
        *,
        limit: int,
        lowest_layer: int = 0,
        tokens: int = 1024,
    ) -> None:
        """`limit`: tokens of each answer that count; `lowest_layer`: no edit that is measured changes a lower one."""
        self._chat = chat
        dialogues = [item for item in kept_dialogues(chat, answers, limit=limit) if item.answer]
        indices = range(len(dialogues))
        self._cache = PrefixCache(
            chat,
            dialogues,
            lowest_layer,
            first_tokens=0,
            first_weight=1.0,
            tokens_per_batch=tokens,
            keep_final=indices,
        )
        self._cache.prepare(indices)
        self._groups = self._cache.groups(indices)

    def measure(self) -> Drift:
        """The drift of the model as it is now."""
        return self._drift(
            (batch, self._per_token(original, batch.at_answers(self._cache.final_states(group, batch)), batch.target))
            for group, batch, original in self._batches()
        )

    def original(self) -> Drift:
        """What `measure` gives for the unedited model, without another pass through it: no divergence."""
        return self._drift(
            (batch, torch.stack([torch.zeros_like(likely), likely], dim=-1))
            for _, batch, original in self._batches()
            for likely in [state_likelihoods(self._chat, original, batch.target)]
        )

    def _batches(self) -> Iterator[tuple[list[int], AnswerBatch, Tensor]]:
        """The answers together in a pass, their tokens, and the original's final states there."""
        for group in self._groups:
            original = torch.cat([self._cache.original(index) for index in group])
            yield group, self._cache.batch(group), original

    @torch.no_grad()
    def _drift(self, scored: Iterable[tuple[AnswerBatch, Tensor]]) -> Drift:
        """From KL and log p of each token of each batch, [answer tokens, 2]."""
        moved: dict[int, float] = {}
        surprise: dict[int, float] = {}
        for group, (batch, values) in zip(self._groups, scored, strict=True):
            shift, likely = values.unbind(-1)
            moved.update(zip(group, batch.per_dialogue(shift).tolist(), strict=True))
            surprise.update(zip(group, batch.per_dialogue(-likely).tolist(), strict=True))
        return Drift(*(tuple(one for _, one in sorted(values.items())) for values in (moved, surprise)))

    def _per_token(self, original: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        """KL to the original and log p of each token: [answer tokens, 2]."""

        def score(part: Tensor, place: slice) -> Tensor:
            logits = self._chat.head(part)
            moved = divergence(self._chat.head(original[place]), logits)
            return torch.stack([moved, log_likelihoods(logits, targets[place])], dim=-1)

        return in_chunks(states, score)
