"""The rule takes the fewest harmful answers within the limits; where nothing is within, what exceeds them least."""

from collections.abc import Sequence

import pytest

from pkedit.run.record import RecordedMetric
from pkedit.tune.trials import OBJECTIVES, RULE, Trial, choose, excess


def figures(*values: float) -> dict[str, RecordedMetric]:
    return {
        name: RecordedMetric(value=value, n=50, low=None, high=None)
        for name, value in zip(OBJECTIVES, values, strict=True)
    }


VANILLA = figures(0.9, 0.02, 0.05, 0.0)


def trials(*rows: Sequence[float], front: bool = True) -> list[Trial]:
    return [Trial(number, {}, figures(*row), 1.0, front=front) for number, row in enumerate(rows)]


def chosen(*rows: Sequence[float]) -> int:
    found = choose(trials(*rows), VANILLA)
    assert found is not None
    return found.number


def test_the_lowest_asr_within_the_limits_is_chosen() -> None:
    # Over-refusal, borderline refusal and KL one after the other beyond their limits, in trials with a lower ASR.
    assert (
        chosen((0.00, 0.06, 0, 0), (0.01, 0, 0.16, 0), (0.02, 0, 0, 0.051), (0.10, 0.05, 0.15, 0.05), (0.2, 0, 0, 0))
        == 3
    )


def test_refusals_are_counted_from_those_of_the_unedited_model() -> None:
    assert excess(trials((0.1, 0.05, 0.15, 0.05))[0], VANILLA) == pytest.approx(0.0, abs=1e-9)
    assert excess(trials((0.1, 0.08, 0.15, 0.05))[0], VANILLA) == pytest.approx(1.0)
    assert excess(trials((0.1, 0.08, 0.15, 0.075))[0], VANILLA) == pytest.approx(1.5)


def test_where_no_trial_is_within_the_limits_the_least_violation_is_chosen() -> None:
    assert chosen((0.0, 0.2, 0, 0), (0.3, 0.06, 0, 0), (0.1, 0, 0, 0.1)) == 1


def test_of_equal_attacks_the_one_with_fewer_refusals_and_less_drift_is_chosen() -> None:
    assert chosen((0.1, 0, 0.05, 0.01), (0.1, 0, 0.02, 0.04), (0.1, 0, 0.02, 0.03), (0.1, 0, 0.02, 0.03)) == 2


def test_only_the_front_is_chosen_from_and_without_one_nothing() -> None:
    behind = trials((0.0, 0, 0, 0), front=False)
    assert choose([*behind, *trials((0.5, 0, 0, 0))], VANILLA) == trials((0.5, 0, 0, 0))[0]
    assert choose(behind, VANILLA) is None
    assert choose([], {}) is None


def test_the_rule_is_told_with_its_limits() -> None:
    for words in ("at most 3 points", "at most 10 points", "at most 0.05 nats"):
        assert words in RULE
