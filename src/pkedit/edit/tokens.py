"""Training examples of an edit as token dialogues, with the hidden states below the edit computed once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, Dialogue, by_length, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import outputs_of, skipped_blocks

Role = Literal["safe", "unsafe", "harmless"]


@dataclass(frozen=True)
class Example:
    """A dialogue and its part in the loss. `source` numbers the pair or the demonstration it came from."""

    role: Role
    source: int
    dialogue: Dialogue


@dataclass(eq=False)
class Cached:
    """What does not change while δ is trained: the states that enter the lowest edited layer, [tokens, hidden],
    and for harmless answers the original's final states at the answer tokens, [answer tokens, hidden]."""

    entering: Tensor | None = None
    final: Tensor | None = None


def arithmetic(chat: ChatModel, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for forward passes where it pays: bfloat16 on processors that multiply it natively."""
    native = chat.device.type != "cpu" or _cpu_has_bfloat16()
    wanted = precision == "bfloat16" or (precision == "auto" and native)
    if wanted and chat.dtype == torch.float32:
        return torch.autocast(chat.device.type, dtype=torch.bfloat16)
    return nullcontext()


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))


class PrefixCache:
    """Runs the model from the lowest edited layer on, from stored inputs of that layer."""

    def __init__(
        self,
        chat: ChatModel,
        examples: Sequence[Example],
        lowest_layer: int,
        *,
        first_tokens: int,
        first_weight: float,
        tokens_per_batch: int,
    ) -> None:
        self._chat = chat
        self._examples = examples
        self._below = chat.blocks[:lowest_layer]
        self._as_tuple = False
        self._first = (first_tokens, first_weight)
        self._cached = [Cached() for _ in examples]
        lengths = [len(example.dialogue) for example in examples]
        for group in by_length(lengths, tokens=tokens_per_batch):
            self._fill(group)

    def batch(self, group: Sequence[int]) -> AnswerBatch:
        """The examples of `group` as one batch."""
        first_tokens, first_weight = self._first
        return make_batch(
            [self._examples[index].dialogue for index in group],
            first_tokens=first_tokens,
            first_weight=first_weight,
            device=self._chat.device,
        )

    def final_states(self, group: Sequence[int], batch: AnswerBatch) -> Tensor:
        """Final hidden states [dialogues, tokens, hidden] of the model as it is now, running only the upper layers."""
        base = self._chat.model.base_model
        if not self._below:
            return base(input_ids=batch.ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
        entering = torch.nn.utils.rnn.pad_sequence([self._entering(index) for index in group], batch_first=True).to(
            self._chat.device
        )
        with skipped_blocks(self._below, entering, as_tuple=self._as_tuple):
            return base(input_ids=batch.ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def original(self, index: int) -> Tensor:
        """The unedited model's final states at the answer tokens of example `index`."""
        final = self._cached[index].final
        assert final is not None
        return final

    def _entering(self, index: int) -> Tensor:
        entering = self._cached[index].entering
        assert entering is not None
        return entering

    @torch.no_grad()
    def _fill(self, group: Sequence[int]) -> None:
        batch = self.batch(group)
        states: list[Tensor] = []

        def receive(_: int, output: Tensor | tuple[Tensor, ...]) -> None:
            self._as_tuple = isinstance(output, tuple)
            states.append(output[0] if isinstance(output, tuple) else output)

        with outputs_of(self._below[-1:], receive):
            final = self._chat.model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
        for row, index in enumerate(group):
            example = self._examples[index]
            if states:
                self._cached[index].entering = states[0][row, : len(example.dialogue)].clone()
            if example.role == "harmless":
                self._cached[index].final = final[row, batch.column[batch.row == row]].clone()
