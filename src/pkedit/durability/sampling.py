"""Conditions that draw answers instead of taking the likeliest words."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pkedit.durability.subject import Asked, Subject
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.generation import GreedyGenerator


@contextmanager
def _sampled(subject: Subject, *, temperature: float) -> Generator[Asked]:
    """Answers drawn at a temperature from all tokens, several to each harmful prompt (Huang et al. 2023, arXiv
    2310.06987). ASR counts the prompts of which any answer is harmful; `asr_mean` is the mean over answers."""
    with subject.edited():
        yield Asked(subject.chat, temperature=temperature)


sampled = {temperature: partial(_sampled, temperature=temperature) for temperature in (0.7, 1.0)}


def sampled_answers(
    chat: ChatModel,
    texts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
) -> list[str]:
    """One drawn answer to each message, in their order; the same ones for the same seed and batches.

    Args:
        chat: the model.
        texts: messages; one that is there twice is answered twice.
        temperature: what logits are divided by.
        max_new_tokens: answers are cut there.
        batch_size: answers at once, at most.
        seed: of the draws. The generators of the process are left as they were.
        progress: called with answers done and in all.
    """
    prompts = [chat.prompt_ids(text) for text in texts]
    generator = _Drawing(chat.model, prompts, padding=chat.tokenizer.pad_token_id, reuse=chat.cannot_reuse is None).at(
        temperature
    )
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers = [""] * len(texts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while order:
            batch = order[: chat.answered_together(len(prompts[order[0]]), max_new_tokens, batch_size)]
            order = order[len(batch) :]
            written = generator.answer([prompts[index] for index in batch], max_new_tokens)
            for index, text in zip(batch, chat.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                answers[index] = text.strip()
            if progress is not None:
                progress(len(texts) - len(order), len(texts))
    return answers


class _Drawing(GreedyGenerator):
    """The generator of greedy answers, but words are drawn."""

    def at(self, temperature: float) -> "_Drawing":
        """The same at this temperature."""
        self._temperature = temperature
        return self

    def _generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, **cache: Any) -> Tensor:
        generated: Tensor = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=self._temperature,
            # A chat model's saved defaults would cut off what is unlikely.
            top_p=1.0,
            top_k=0,
            pad_token_id=self._padding,
            **cache,
        )
        return generated[:, ids.shape[1] :]
