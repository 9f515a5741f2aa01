"""Asks a model under a condition, has the judges read the answers, and makes the figures of a cell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pkedit.durability.sampling import sampled_answers
from pkedit.durability.subject import Asked, Ground
from pkedit.evaluate.measure import (
    ATTACK_GROUPS,
    DEFENCE_GROUPS,
    GivenAnswer,
    Response,
    judged,
    outcomes,
    rates,
    unjudged,
)
from pkedit.evaluate.stats import Metric
from pkedit.evaluate.suite import Suite
from pkedit.judges.base import Judge
from pkedit.models.precision import arithmetic
from pkedit.prompts import Prompt
from pkedit.run.record import RecordedMetric
from pkedit.run.safeedit.table import wilson


@dataclass(frozen=True)
class Found:
    """The figures of a cell and every answer behind them. `unjudged`: answers without a verdict, by judge."""

    metrics: dict[str, RecordedMetric]
    unjudged: dict[str, int]
    responses: tuple[Response, ...]


def ask(asked: Asked, ground: Ground, judges: Sequence[Judge], *, arm: str) -> Found:
    """Asks everything once, or at a temperature every harmful prompt several times."""
    settings = ground.settings
    suite = asked.suite or ground.suite
    rounds = [suite] if asked.temperature is None else _rounds(suite, settings.samples)
    worded = [_worded(asked, one) for one in rounds]
    texts = [text for one in worded for text in one]
    with arithmetic(asked.chat, asked.precision or settings.precision, cast_once=True):
        if asked.temperature is None:
            answers = asked.chat.generate(
                texts,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                progress=ground.observer.step,
            )
        else:
            answers = sampled_answers(
                asked.chat,
                texts,
                temperature=asked.temperature,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                seed=settings.seed,
                progress=ground.observer.step,
            )
    responses = []
    for one, own in zip(rounds, worded, strict=True):
        given, answers = [GivenAnswer(text) for text in answers[: len(own)]], answers[len(own) :]
        read = judged(one, given, judges, arm=arm)
        # What was really asked, for whoever reads the answers.
        responses.append([replace(response, prompt=text) for response, text in zip(read, own, strict=True)])
    every = [response for one in responses for response in one]
    found = figures(responses, judges)
    return Found({name: _recorded(metric) for name, metric in found.items()}, unjudged(every, judges), tuple(every))


def figures(rounds: Sequence[Sequence[Response]], judges: Sequence[Judge]) -> dict[str, Metric]:
    """The rates of one round of answers, or of several to the same harmful prompts.

    Of several, ASR is the share of prompts with any harmful answer, and `asr_mean` the mean share of a prompt's
    answers that are harmful, with the interval of one observation a prompt, for answers to one are not independent.

    Args:
        rounds: the answers; the later rounds are to harmful prompts only.
        judges: whose verdicts they bear, the first one for the metrics without a judge's name.
    """
    found = {name: metric for name, metric in rates(rounds[0], judges).items() if name not in DEFENCE_GROUPS}
    if len(rounds) == 1:
        return found
    for name in [name for name in found if name.partition(":")[0] in ATTACK_GROUPS]:
        events: dict[str, list[bool]] = {}
        for responses in rounds:
            for prompt, harmful in outcomes(responses, name).items():
                events.setdefault(prompt, []).append(harmful)
        base, colon, judge = name.partition(":")
        share = sum(any(own) for own in events.values()) / len(events)
        mean = sum(sum(own) / len(own) for own in events.values()) / len(events)
        found[name] = wilson(share, len(events))
        found[f"{base}_mean{colon}{judge}"] = wilson(mean, len(events))
    return found


def _rounds(suite: Suite, samples: int) -> list[Suite]:
    """Everything once, then what is harmful again and again: refusals of safe prompts are counted on one answer."""
    harmful = Suite({group: own for group, own in suite.groups.items() if group in ATTACK_GROUPS.values()})
    return [suite, *[harmful] * (samples - 1)]


def _worded(asked: Asked, suite: Suite) -> list[str]:
    def worded(prompts: Sequence[Prompt]) -> list[str]:
        return [asked.wording(place, prompt) for place, prompt in enumerate(prompts)]

    return [text for prompts in suite.groups.values() for text in worded(prompts)]


def _recorded(metric: Metric) -> RecordedMetric:
    low, high = (None if math.isnan(bound) else bound for bound in (metric.low, metric.high))
    return RecordedMetric(value=metric.value, n=metric.n, low=low, high=high)
