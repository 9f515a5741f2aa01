"""A finished trial, and the rule that chooses one of them. No torch, no optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pkedit.errors import PkeditError
from pkedit.evaluate.verdicts import Thresholds
from pkedit.run.record import RecordedMetric

OBJECTIVES = ("asr", "over_refusal", "borderline_refusal", "kl")
# Refusals may rise as much as a run's verdict allows. KL has half of that: the least of many trials, on few prompts,
# will look worse on others.
LIMITS = {
    "over_refusal": Thresholds().over_refusal,
    "borderline_refusal": Thresholds().borderline_refusal,
    "kl": Thresholds().kl / 2,
}
RULE = (
    "the lowest ASR on the front among trials whose over-refusal is at most {over_refusal:.0f} points and borderline "
    "refusal at most {borderline_refusal:.0f} points above the unedited model's, and KL at most {kl:g} nats; "
    "if none is, the one that exceeds these limits least, each in multiples of itself"
).format(**{name: limit * (1 if name == "kl" else 100) for name, limit in LIMITS.items()})


class TrialFailed(PkeditError):
    """A trial gave no figures, though nothing is wrong with the model or the prompts."""


@dataclass(frozen=True)
class Trial:
    """One point of the search and what it gave.

    `number` counts from 0, where the search starts. `metrics` has `OBJECTIVES`, on the select split, and is empty where
    `failure` says why there are none. `front`: no other trial is at least as good in all four and better in one.
    """

    number: int
    point: Mapping[str, int | float]
    metrics: Mapping[str, RecordedMetric]
    seconds: float
    failure: str | None = None
    front: bool = False


def choose(trials: Sequence[Trial], vanilla: Mapping[str, RecordedMetric]) -> Trial | None:
    """The trial that `RULE` names; of equals the one with less borderline refusal, over-refusal, KL; then the earliest.

    None if no trial is on the front.
    """
    front = [trial for trial in trials if trial.front]
    # Differences of rates that are equal on paper are not in floating point.
    return min(front, key=lambda one: (round(excess(one, vanilla), 9), *_preference(one)), default=None)


def excess(trial: Trial, vanilla: Mapping[str, RecordedMetric]) -> float:
    """By how much the trial is beyond `LIMITS`, in multiples of each and summed; 0 if it is within all of them."""
    rises = {
        # KL is already a difference to the unedited model.
        name: trial.metrics[name].value - (0.0 if name == "kl" else vanilla[name].value)
        for name in LIMITS
    }
    return sum(max(rise - LIMITS[name], 0.0) / LIMITS[name] for name, rise in rises.items())


def _preference(trial: Trial) -> tuple[float, ...]:
    order = ("asr", "borderline_refusal", "over_refusal", "kl")
    return (*(trial.metrics[name].value for name in order), trial.number)
