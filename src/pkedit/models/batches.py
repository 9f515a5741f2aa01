"""Prompts with answers as right-padded token batches, with logits computed at answer tokens only.

Under causal attention no token sees the padding to its right, so a batch needs no attention mask and gives
each sequence what it would get alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks
from pkedit.prompts.types import Conversation, Demonstration


@dataclass(frozen=True)
class Dialogue:
    """One prompt and one answer as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, eq=False)
class AnswerBatch:
    """Right-padded dialogues. The flat tensors have one entry per answer token, dialogue after dialogue.

    `row` and `column` say where the hidden state that predicts the token stands, `target` is the token,
    `place` its number in the answer (from 0), `weight` its share in the dialogue's mean (they sum to 1).
    """

    ids: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    place: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def at_answers(self, hidden: Tensor) -> Tensor:
        """Selects [answer tokens, width] from [dialogues, tokens, width], wherever that is."""
        return hidden[self.row.to(hidden.device), self.column.to(hidden.device)]

    def per_dialogue(self, values: Tensor) -> Tensor:
        """The weighted mean of one value per answer token, for each dialogue: [dialogues]."""
        row, weight = self.row.to(values.device), self.weight.to(values.device)
        return values.new_zeros(len(self)).index_add(0, row, values * weight)

    def to(self, device: torch.device) -> "AnswerBatch":
        """The same batch elsewhere: states of a model over several devices end where its last layer is."""
        return AnswerBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def dialogue(
    chat: ChatModel, prompt: Conversation, answer: str, *, limit: int | None = None, ended: bool = True
) -> Dialogue:
    """Tokenises a prompt (in the chat template) and an answer cut to `limit` tokens."""
    return Dialogue(tuple(chat.prompt_ids(prompt)), tuple(chat.answer_ids(answer, limit=limit, ended=ended)))


def kept_dialogues(chat: ChatModel, kept: Sequence[Demonstration], *, limit: int) -> list[Dialogue]:
    """Harmless prompts with the answers to keep. They are openings, so nothing ends them."""
    return [dialogue(chat, one.prompt.conversation, one.answer, limit=limit, ended=False) for one in kept]


def make_batch(
    dialogues: Sequence[Dialogue], *, first_tokens: int, first_weight: float, device: torch.device
) -> AnswerBatch:
    """One batch. The first `first_tokens` answer tokens weigh `first_weight` times the others."""
    width = max(map(len, dialogues))
    ids = torch.zeros(len(dialogues), width, dtype=torch.long)
    rows, columns, targets, places, weights = [], [], [], [], []
    for row, item in enumerate(dialogues):
        ids[row, : len(item)] = torch.tensor([*item.prompt, *item.answer])
        raw = [first_weight if place < first_tokens else 1.0 for place in range(len(item.answer))]
        for place, token in enumerate(item.answer):
            rows.append(row)
            columns.append(len(item.prompt) + place - 1)
            targets.append(token)
            places.append(place)
            weights.append(raw[place] / sum(raw))
    return AnswerBatch(
        ids.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(places, device=device),
        torch.tensor(weights, device=device),
    )


def answer_states(chat: ChatModel, batch: AnswerBatch) -> Tensor:
    """Final states at the answer tokens, [answer tokens, hidden], by one pass through the whole model."""
    return batch.at_answers(chat.body(input_ids=batch.ids, use_cache=False).last_hidden_state)


def answer_logits(chat: ChatModel, batch: AnswerBatch) -> Tensor:
    """Logits [answer tokens, vocabulary] in float32."""
    return chat.head(answer_states(chat, batch))


def answer_scores(chat: ChatModel, batch: AnswerBatch) -> Tensor:
    """log p of each dialogue's answer, the weighted mean over its tokens: [dialogues]."""
    return batch.per_dialogue(state_likelihoods(chat, answer_states(chat, batch), batch.target))


def state_likelihoods(chat: ChatModel, states: Tensor, targets: Tensor) -> Tensor:
    """log p of each target token from the state that predicts it: [tokens] from [tokens, hidden], in chunks."""
    return in_chunks(states, lambda part, place: log_likelihoods(chat.head(part), targets[place]))


def log_likelihoods(logits: Tensor, targets: Iterable[int] | Tensor) -> Tensor:
    """log p of each target token: [tokens] from [tokens, vocabulary]."""
    return -cross_entropy(logits, torch.as_tensor(targets, device=logits.device), reduction="none")


def divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) in nats per token: [tokens] from two sets of logits [tokens, vocabulary]."""
    reference = original.log_softmax(-1)
    # Not as a dot product: in mixed precision that would be rounded to bfloat16.
    return (reference.exp() * (reference - edited.log_softmax(-1))).sum(-1)
