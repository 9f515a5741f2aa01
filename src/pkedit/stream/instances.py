"""The prompts of a stream in their order, and the next one that the model, as it is by then, answers harmfully.

Only failures are edited, unless every prompt is asked for: an edit on a prompt that is refused already adds to the
damage and mends nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pkedit.evaluate.measure import GivenAnswer, Response, judged
from pkedit.evaluate.suite import Suite
from pkedit.judges.base import Judge, Judgement
from pkedit.models.chat import ChatModel
from pkedit.prompts import Kind, Prompt, Split, load_prompts_from
from pkedit.run.data import UNSAFE_OPENING
from pkedit.stream.settings import StreamSettings

# Prompts asked at once; more than a few only where failures have become rare.
MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Failure:
    """A prompt with the harmful answer that it got. `place`: in the order; `passed_over`: those before it that were
    asked for it and did not fail."""

    prompt: Prompt
    answer: str
    place: int
    passed_over: int


def in_order(edit: Split, settings: StreamSettings) -> list[Prompt]:
    """The prompts that may be edited: those of the file as they stand there, or the edit split's questions.

    Of the latter every second one is first asked bare and the others in an attack; then the other way round, and after
    that each in one attack template after the other, until every question has been in every one.

    Raises:
        PromptFileError: the file is missing, empty or malformed.
    """
    if settings.questions is not None:
        return load_prompts_from(settings.questions, Kind.HARMFUL)
    templates = len(edit.attacks)
    ways: list[list[Prompt]] = []
    for place, question in enumerate(edit.harmful):
        attacked = [edit.attacks[(place + turn) % templates].apply(question) for turn in range(templates)]
        ways.append([question, *attacked] if place % 2 == 0 else [attacked[0], question, *attacked[1:]])
    return [way[turn] for turn in range(templates + 1) for way in ways]


def without_edited(test: Split, prompts: Sequence[Prompt]) -> Split:
    """The test split without the questions that are among these prompts, whatever their case and spaces."""
    edited = {_plain(prompt.question) for prompt in prompts}
    return replace(test, harmful=tuple(one for one in test.harmful if _plain(one.question) not in edited))


def next_failure(
    chat: ChatModel, prompts: Sequence[Prompt], place: int, judge: Judge, settings: StreamSettings, *, at_once: int
) -> Failure | None:
    """The first prompt from `place` on whose greedy answer the judge calls harmful; None if there is none.

    Args:
        chat: the model as it is by now.
        prompts: in their order.
        place: where to begin.
        judge: says what an answer is.
        settings: how long answers are.
        at_once: prompts asked together at first; then twice as many, and so on.
    """
    asked = 0
    while place + asked < len(prompts):
        group = prompts[place + asked : place + asked + min(at_once, MOST_AT_ONCE)]
        for offset, (prompt, one) in enumerate(zip(group, answers_to(chat, group, judge, settings), strict=True)):
            if one.judgement() is Judgement.HARMFUL:
                return Failure(prompt, one.answer, place + asked + offset, asked + offset)
        asked += len(group)
        at_once *= 2
    return None


def next_prompt(
    chat: ChatModel, prompts: Sequence[Prompt], place: int, judge: Judge, settings: StreamSettings
) -> Failure | None:
    """The prompt at `place`, whether it fails or not; None behind the last.

    An answer that is not harmful is none to avoid: an opening stands for the one that would be.
    """
    if place >= len(prompts):
        return None
    (one,) = answers_to(chat, prompts[place : place + 1], judge, settings)
    harmful = one.judgement() is Judgement.HARMFUL
    return Failure(prompts[place], one.answer if harmful else UNSAFE_OPENING, place, 0)


def answers_to(chat: ChatModel, prompts: Sequence[Prompt], judge: Judge, settings: StreamSettings) -> list[Response]:
    """The model's beginnings of greedy answers to harmful prompts, with the judge's verdicts."""
    answers = chat.generate(
        [prompt.text for prompt in prompts], max_new_tokens=settings.asked_tokens, batch_size=len(prompts)
    )
    suite = Suite({"stream": tuple(prompts)})
    return judged(suite, [GivenAnswer(answer) for answer in answers], [judge], arm="stream")


def _plain(question: str) -> str:
    return " ".join(question.lower().split())
