"""The loaded model as lm-evaluation-harness sees it. Imports lm_eval, which is slow: import this where it is used."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from pkedit.evaluate.tasks.branches import Branching, reads_branches, score_branches
from pkedit.models.chat import ChatModel
from pkedit.models.rendering import render

# As lm-eval passes them: the texts, the tokens of the context, the tokens of the continuation.
Request = tuple[tuple[str, str], list[int], list[int]]


class LoadedModel(HFLM):  # type: ignore[misc]
    """lm-eval's own model class; choices that share a context are scored together (see `branches.py`)."""

    def __init__(self, chat: ChatModel, *, batch_size: int) -> None:
        super().__init__(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=batch_size)
        self._name = chat.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As every other prompt is put: the template is the model's, and runs within limits."""
        return render(
            self.tokenizer,
            chat_history,
            name=self._name,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def multiply_as_outside(self) -> None:
        """Takes over the mixed precision in force now; lm-eval would turn it off around its own passes."""
        device = self.device.type
        self.mixed_precision_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        contexts: dict[tuple[int, ...], list[int]] = {}
        for index, (_, tokens, _) in enumerate(requests):
            contexts.setdefault(tuple(tokens), []).append(index)
        asked = {
            context: Branching(context, tuple(tuple(requests[i][2]) for i in own)) for context, own in contexts.items()
        }
        together = [context for context, own in contexts.items() if len(own) > 1 and self._fits(asked[context])]
        scores: dict[int, tuple[float, bool]] = {}
        if together:
            found = score_branches(self.model, [asked[context] for context in together], batch_size=self.batch_size)
            for context, answers in zip(together, found, strict=True):
                scores.update(zip(contexts[context], answers, strict=True))
        others = [index for index in range(len(requests)) if index not in scores]
        if others:
            rest: list[Any] = super()._loglikelihood_tokens(
                [requests[index] for index in others], disable_tqdm=disable_tqdm, override_bs=override_bs
            )
            scores.update(zip(others, rest, strict=True))
        return [scores[index] for index in range(len(requests))]

    def _fits(self, asked: Branching) -> bool:
        return asked.longest <= self.max_length and reads_branches(self.model, asked)
