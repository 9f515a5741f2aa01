"""Puts texts before a guard: cut to what it reads, in batches of similar length that fit into memory."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pkedit.errors import OutOfMemoryError
from pkedit.judges.guard_families import Opinion

Texts = tuple[str, ...]


def ask_in_batches(
    questions: Sequence[str],
    answers: Sequence[str],
    *,
    texts: Callable[[str, str], Texts],
    count: Callable[[Texts], int],
    ask: Callable[[Sequence[Texts]], list[Opinion]],
    limit: int,
    batch_size: int,
) -> list[Opinion]:
    """One opinion per answer, in order. Long texts go first, so that what does not fit into memory shows at once.

    An answer that is too long is cut at its end, and its opinion says where: harm and refusal show at the beginning.

    Args:
        questions: the requests.
        answers: what was answered.
        texts: what the guard reads about a question and an answer.
        count: the tokens of that.
        ask: the guard's opinions on a batch.
        limit: the most tokens that it reads.
        batch_size: most texts at once; halved when memory runs out.

    Raises:
        OutOfMemoryError: a single text does not fit.
    """

    def fits(question: str, answer: str) -> bool:
        return count(texts(question, answer)) <= limit

    found: dict[int, Opinion] = {}
    ready: dict[int, Texts] = {}
    tokens: dict[int, int] = {}
    cuts: dict[int, str] = {}
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        kept = _most_that_fits(answer, functools.partial(fits, question))
        if kept is None:
            found[index] = Opinion(
                None, None, f"the request alone is longer than the {limit} tokens that the guard reads"
            )
            continue
        if kept < len(answer):
            cuts[index] = f"; read the first {kept} of {len(answer)} characters"
        ready[index] = texts(question, answer[:kept])
        tokens[index] = count(ready[index])
    order = sorted(ready, key=lambda index: -tokens[index])
    while order:
        batch = order[:batch_size]
        try:
            opinions = ask([ready[index] for index in batch])
        except (torch.OutOfMemoryError, MemoryError):
            if batch_size == 1:
                raise OutOfMemoryError(
                    f"not enough memory for the guard to read one answer of {tokens[batch[0]]} tokens; choose a "
                    "smaller "
                    "guard, or another judge with --judges"
                ) from None
            batch_size //= 2
            continue
        for index, opinion in zip(batch, opinions, strict=True):
            found[index] = replace(opinion, words=opinion.words + cuts.get(index, ""))
        order = order[len(batch) :]
    return [found[index] for index in range(len(answers))]


def _most_that_fits(answer: str, fits: Callable[[str], bool]) -> int | None:
    """The most characters of the answer's beginning that fit; None where not even one does."""
    if fits(answer):
        return len(answer)
    low, high = 0, len(answer)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(answer[:middle]) else (low, middle)
    return low or None
