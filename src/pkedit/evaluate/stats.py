"""The statistics behind every number pkedit prints: a value never stands without its n and its interval.

All intervals are two-sided at 95 %. Nothing here knows what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
# Values that the bootstrap holds at once.
DRAWN_TOGETHER = 1 << 16


@dataclass(frozen=True)
class Metric:
    """A measured value, the number of observations behind it, and its 95 % interval [low, high]."""

    value: float
    n: int
    low: float
    high: float


def proportion(successes: int, total: int) -> Metric:
    """The share `successes / total` with its Wilson score interval (without continuity correction).

    Unlike the textbook interval it stays inside [0, 1] and has a width at 0 % and 100 %, where
    attack success rates often lie.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Raises:
        ValueError: `total` is not positive, or `successes` is not between 0 and `total`.
    """
    if total <= 0:
        raise ValueError(f"a proportion needs at least one observation, not {total}")
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and {total}, not {successes}")
    interval = stats.binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Metric(successes / total, total, float(interval.low), float(interval.high))


def mean_with_interval(values: Sequence[float]) -> Metric:
    """The mean with its t-interval, mean ± t(n-1) · s / √n, where s² is the unbiased variance.

    A t-interval rather than a bootstrap, because it needs no seed and is wide where n is small. One value
    has no interval: `low` and `high` are then NaN.

    Source: Student, "The probable error of a mean", Biometrika 6, 1908.

    Raises:
        ValueError: `values` is empty or holds a NaN or Inf.
    """
    observed = _finite(values, "values")
    mean = float(observed.mean())
    if observed.size == 1:
        return Metric(mean, 1, float("nan"), float("nan"))
    standard_error = float(observed.std(ddof=1)) / observed.size**0.5
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, observed.size - 1)) * standard_error
    return Metric(mean, observed.size, mean - margin, mean + margin)


def paired_difference(before: Sequence[float], after: Sequence[float], *, seed: int, resamples: int = 2000) -> Metric:
    """The mean of `after - before` over the same prompts, with a paired bootstrap percentile interval.

    Whole pairs are drawn with replacement, so that what makes a prompt easy or hard cancels out.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Raises:
        ValueError: the sequences are empty, differ in length, hold a NaN or Inf, or `resamples` < 1.
    """
    _check_same_length(before, after)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    differences = _finite(after, "after") - _finite(before, "before")
    generator = np.random.default_rng(seed)
    size = differences.size
    # Some draws at a time: a (resamples, n) table of indices would not fit for long prompt lists.
    together = max(1, DRAWN_TOGETHER // size)
    means = np.concatenate(
        [
            differences[generator.integers(size, size=(min(together, resamples - done), size))].mean(axis=1)
            for done in range(0, resamples, together)
        ]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Metric(float(differences.mean()), differences.size, float(low), float(high))


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """The exact two-sided p-value that the same prompts changed both ways equally often.

    Only prompts whose outcome changed carry information: under the null hypothesis each changed in either
    direction with probability 1/2 (a binomial test, valid for any count). No change at all gives 1.0.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12, 1947.

    Raises:
        ValueError: the sequences are empty or differ in length.
    """
    _check_same_length(before, after)
    lost = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    gained = sum(bool(new) and not old for old, new in zip(before, after, strict=True))
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given; those below a level control the family-wise error at it.

    With the p-values sorted ascending, p̃_(i) = max over j ≤ i of min(1, (m - j + 1) · p_(j)).

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.

    Raises:
        ValueError: `p_values` is empty or holds something outside [0, 1].
    """
    if len(p_values) == 0:
        raise ValueError("there are no p-values to adjust")
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, not {p_value}")
    adjusted = [0.0] * len(p_values)
    largest_so_far = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest_so_far = max(largest_so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest_so_far
    return adjusted


def _finite(values: Sequence[float], name: str) -> NDArray[np.float64]:
    observed = np.asarray(values, dtype=np.float64)
    if observed.size == 0:
        raise ValueError(f"{name} is empty")
    if not np.isfinite(observed).all():
        raise ValueError(f"{name} holds a NaN or Inf; leave out and count what could not be measured")
    return observed


def _check_same_length(before: Sequence[object], after: Sequence[object]) -> None:
    if len(before) == 0:
        raise ValueError("before is empty")
    if len(before) != len(after):
        raise ValueError(f"before has {len(before)} observations and after {len(after)}; they are not pairs")
