"""The training examples of an edit, and which of them each step sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import EditSettings

Role = Literal["safe", "unsafe", "harmless"]


@dataclass(frozen=True)
class Example:
    """A dialogue and its part in the loss. `source` numbers the pair or the demonstration it came from.

    `avoid`: an unsafe first token, made unlikely at the place where this safe answer begins.
    """

    role: Role
    source: int
    dialogue: Dialogue
    avoid: int | None = None


def make_examples(
    chat: ChatModel,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: EditSettings,
) -> list[Example]:
    """Pairs and harmless answers as token dialogues, cut to the lengths of the settings."""
    examples = []
    for source, pair in enumerate(pairs):
        said = pair.prompt.conversation
        safe = dialogue(chat, said, pair.safe, limit=settings.safe_tokens)
        unsafe = dialogue(chat, said, pair.unsafe, limit=settings.unsafe_tokens, ended=False)
        # Both answers' first tokens are predicted at the same place, so one unsafe token needs no pass of its own.
        alone = len(unsafe.answer) == 1
        avoid = unsafe.answer[0] if alone and unsafe.answer[0] != safe.answer[0] else None
        examples.append(Example("safe", source, safe, avoid))
        if settings.unsafe_weight and len(unsafe.answer) > 1:
            examples.append(Example("unsafe", source, unsafe))
    for source, kept in enumerate(demonstrations):
        harmless = dialogue(chat, kept.prompt.conversation, kept.answer, limit=settings.harmless_tokens)
        examples.append(Example("harmless", source, harmless))
    return examples


def to_avoid(examples: Sequence[Example], batch: AnswerBatch) -> tuple[Tensor, Tensor]:
    """Where safe answers begin that have an unsafe first token, among the answer tokens, and these unsafe tokens.

    Args:
        examples: those of the batch, in its order.
        batch: the answer tokens.
    """
    avoid = [example.avoid for example in examples]
    with_one = torch.tensor([token is not None for token in avoid], device=batch.row.device)
    starts = ((batch.place == 0) & with_one[batch.row]).nonzero().squeeze(1)
    tokens = [token for token in avoid if token is not None]
    return starts, torch.tensor(tokens, dtype=torch.long, device=batch.row.device)


class Sampler:
    """Draws the examples of a step: those with a high loss when last seen more often, unseen ones first."""

    def __init__(self, examples: Sequence[Example], settings: EditSettings) -> None:
        self.examples = examples
        self._settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._loss: dict[int, float] = {}
        self._pairs = sorted({example.source for example in examples if example.role != "harmless"})
        self._of_pair = {
            source: [i for i, e in enumerate(examples) if e.source == source and e.role != "harmless"]
            for source in self._pairs
        }
        self._safe = {e.source: i for i, e in enumerate(examples) if e.role == "safe"}
        self._harmless = [i for i, e in enumerate(examples) if e.role == "harmless"]

    def draw(self) -> list[int]:
        """Indices of one step's examples."""
        pairs = self._pick([self._safe[source] for source in self._pairs], self._settings.pairs_per_step)
        chosen = [i for index in pairs for i in self._of_pair[self.examples[index].source]]
        return chosen + self._pick(self._harmless, self._settings.demonstrations_per_step)

    def report(self, index: int, loss: float) -> None:
        """Remembers the loss of an example."""
        self._loss[index] = loss

    def all_met(self) -> bool:
        """Whether every pair's hinge was zero when last seen."""
        return all(self._loss.get(index, 1.0) == 0.0 for index in self._safe.values())

    def _pick(self, candidates: Sequence[int], count: int) -> list[int]:
        if count >= len(candidates):
            return list(candidates)
        seen = [self._loss[index] for index in candidates if index in self._loss]
        mean = sum(seen) / len(seen) if seen else 1.0
        # A share of the mean for everyone, so that what was learnt is looked at again now and then.
        unseen = 100.0 * (mean + 1e-3)
        weights = torch.tensor([self._loss.get(i, unseen) + 0.5 * mean + 1e-6 for i in candidates])
        drawn = torch.multinomial(weights, count, generator=self.generator)
        return [candidates[place] for place in drawn.tolist()]
