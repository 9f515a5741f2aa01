"""The statistics agree with published and hand-worked numbers; intervals cover what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from pkedit.evaluate.stats import Metric, holm, mcnemar, mean_with_interval, paired_difference, proportion


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_proportion_has_the_published_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    metric = proportion(successes, total)
    assert metric.value == successes / total
    assert metric.n == total
    assert metric.low == pytest.approx(low, abs=5e-5)
    assert metric.high == pytest.approx(high, abs=5e-5)


def test_wilson_interval_covers_the_truth_in_about_95_of_100_samples() -> None:
    truth, total = 0.1, 50
    draws = np.random.default_rng(0).binomial(total, truth, size=1000)
    covered = sum(metric.low <= truth <= metric.high for metric in (proportion(int(k), total) for k in draws))
    assert 0.93 <= covered / 1000 <= 0.99


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (1, -1), (-1, 5), (6, 5)])
def test_proportion_rejects_impossible_counts(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match=r"observation|successes"):
        proportion(successes, total)


# Student's sleep data, 1908: extra hours of sleep under two drugs, the same ten patients.
SLEEP_BEFORE = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_AFTER = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_mean_has_the_t_interval_of_students_sleep_data() -> None:
    differences = [after - before for before, after in zip(SLEEP_BEFORE, SLEEP_AFTER, strict=True)]
    metric = mean_with_interval(differences)
    assert metric.value == pytest.approx(1.58)
    assert metric.n == 10
    assert (metric.low, metric.high) == pytest.approx((0.7001142, 2.4598858))


def test_mean_of_equal_values_has_an_interval_without_width() -> None:
    assert mean_with_interval([2.0, 2.0, 2.0]) == Metric(2.0, 3, 2.0, 2.0)


def test_mean_of_one_value_has_no_interval() -> None:
    metric = mean_with_interval([3.0])
    assert (metric.value, metric.n) == (3.0, 1)
    assert math.isnan(metric.low)
    assert math.isnan(metric.high)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_mean_rejects_empty_and_non_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        mean_with_interval(values)


def test_paired_difference_of_the_sleep_data_excludes_zero() -> None:
    metric = paired_difference(SLEEP_BEFORE, SLEEP_AFTER, seed=0)
    assert metric.value == pytest.approx(1.58)
    assert metric.n == 10
    # Percentile intervals are a little narrower than the t-interval (0.70, 2.46) at n = 10.
    assert metric.low == pytest.approx(0.9, abs=0.15)
    assert metric.high == pytest.approx(2.35, abs=0.15)


def test_outcomes_may_be_given_as_booleans_and_are_reckoned_in_double_precision() -> None:
    assert paired_difference([True, True, False], [False, True, False], seed=0).value == pytest.approx(-1 / 3)
    assert mean_with_interval([True, False, False, False]).value == 0.25
    single = np.array([0.1, 0.2, 0.4], dtype=np.float32)
    assert mean_with_interval(single) == mean_with_interval(single.astype(np.float64).tolist())  # type: ignore[arg-type]


def test_paired_difference_uses_the_pairing() -> None:
    before = [0.0, 100.0, 200.0, 300.0]
    after = [value + 1.0 for value in before]
    assert paired_difference(before, after, seed=3) == Metric(1.0, 4, 1.0, 1.0)


def test_paired_difference_is_negative_when_after_is_lower() -> None:
    assert paired_difference([1.0, 1.0], [0.0, 0.0], seed=0).value == -1.0


def test_paired_difference_repeats_with_its_seed_and_varies_with_another() -> None:
    first = paired_difference(SLEEP_BEFORE, SLEEP_AFTER, seed=1, resamples=200)
    assert first == paired_difference(SLEEP_BEFORE, SLEEP_AFTER, seed=1, resamples=200)
    assert first != paired_difference(SLEEP_BEFORE, SLEEP_AFTER, seed=2, resamples=200)


def test_paired_bootstrap_draws_the_same_however_many_it_draws_together(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = np.random.default_rng(0).normal(size=(2, 50)).tolist()
    together = paired_difference(before, after, seed=3)
    for values in (1, 60, 7 * 50):
        monkeypatch.setattr("pkedit.evaluate.stats.DRAWN_TOGETHER", values)
        assert paired_difference(before, after, seed=3) == together


def test_paired_bootstrap_covers_the_truth_in_about_95_of_100_samples() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        before = generator.normal(size=40)
        after = before + generator.normal(loc=0.3, size=40)
        metric = paired_difference(before.tolist(), after.tolist(), seed=trial, resamples=300)
        covered += metric.low <= 0.3 <= metric.high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0])])
def test_paired_difference_rejects_empty_and_unequal_input(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=r"empty|not pairs"):
        paired_difference(before, after, seed=0)


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_paired_difference_names_the_side_that_was_not_measured(name: str, value: float) -> None:
    sides = {"before": [1.0, 2.0], "after": [2.0, 1.0], name: [1.0, value]}
    with pytest.raises(ValueError, match=f"^{name} holds a NaN or Inf"):
        paired_difference(**sides, seed=0)


def test_one_resample_is_enough() -> None:
    metric = paired_difference(SLEEP_BEFORE, SLEEP_AFTER, seed=0, resamples=1)
    assert metric.low == metric.high


def test_paired_difference_rejects_zero_resamples() -> None:
    with pytest.raises(ValueError, match="resamples"):
        paired_difference([1.0], [2.0], seed=0, resamples=0)


@pytest.mark.parametrize(
    ("lost", "gained", "p_value"),
    [
        (5, 0, 2 / 2**5),
        (5, 1, 2 * (1 + 6) / 2**6),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar_is_the_exact_binomial_of_the_changed_pairs(lost: int, gained: int, p_value: float) -> None:
    unchanged_harmful, unchanged_safe = 30, 20
    before = [True] * (lost + unchanged_harmful) + [False] * (gained + unchanged_safe)
    after = [False] * lost + [True] * (unchanged_harmful + gained) + [False] * unchanged_safe
    assert mcnemar(before, after) == pytest.approx(p_value)
    assert mcnemar(after, before) == pytest.approx(p_value)


@pytest.mark.parametrize(("before", "after"), [([], []), ([True], [True, False])])
def test_mcnemar_rejects_empty_and_unequal_input(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"empty|not pairs"):
        mcnemar(before, after)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2], [0.2]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_adjusts_in_the_order_given(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize("p_values", [[], [0.5, 1.2], [-0.1], [float("nan")]])
def test_holm_rejects_what_is_not_a_list_of_p_values(p_values: list[float]) -> None:
    with pytest.raises(ValueError, match="p-value"):
        holm(p_values)


def test_the_paired_bootstrap_agrees_with_scipy() -> None:
    generator = np.random.default_rng(3)
    before, after = generator.normal(size=60), generator.normal(0.4, size=60)
    found = paired_difference(before.tolist(), after.tolist(), seed=0, resamples=4000)
    library = stats.bootstrap((after - before,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert found.low == pytest.approx(library.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(library.confidence_interval.high, abs=0.03)
