"""Win rates: both orders are asked, what cannot be read is left out and counted, and length is controlled for."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pkedit.evaluate.win_rate import (
    LENGTH_PENALTY,
    AnswerPair,
    WinRate,
    length_controlled,
    standardised_difference,
    win_rate,
)

COUNT = 200


def each(judge: Callable[[AnswerPair], float | None]) -> Callable[[Sequence[AnswerPair]], list[float | None]]:
    return lambda pairs: [judge(pair) for pair in pairs]


def rated(judge: Callable[[AnswerPair], float | None], *, longer: float = 0.0, seed: int = 0) -> WinRate:
    """Answers of random length; the edited model's are longer by `longer` standard deviations on average."""
    generator = np.random.default_rng(seed)
    original = [100] * COUNT
    edited = (100 + 20 * generator.normal(longer, 1, COUNT)).clip(1).round().astype(int).tolist()
    instructions = [f"instruction {number}" for number in range(COUNT)]
    return win_rate(instructions, ["e" * n for n in edited], ["o" * n for n in original], each(judge), seed=seed)


def by_length(pair: AnswerPair) -> float:
    difference = len(pair.first) - len(pair.second)
    return 0.5 if difference == 0 else float(difference > 0)


def values(rate: WinRate) -> tuple[float, float]:
    assert rate.raw is not None
    assert rate.length_controlled is not None
    return rate.raw.value, rate.length_controlled.value


def test_equal_answers_win_half() -> None:
    texts = ["one", "two", "three"]
    rate = win_rate(texts, texts, texts, each(by_length), seed=0)
    assert values(rate) == (0.5, 0.5)
    assert (rate.unparsable, rate.left_out) == (0, 0)


def test_a_judge_that_always_takes_the_first_answer_gives_half() -> None:
    raw, controlled = values(rated(lambda _: 1.0, longer=1.0))
    assert raw == 0.5
    assert controlled == pytest.approx(0.5)


def test_a_judge_that_always_takes_the_longer_answer_is_near_half_once_length_is_controlled() -> None:
    rates = [values(rated(by_length, longer=0.8, seed=seed)) for seed in range(8)]
    raw, controlled = np.mean(rates, axis=0)
    assert raw > 0.75
    assert controlled == pytest.approx(0.5, abs=0.06)
    # One sample of 200 scatters around that, but is nearer to one half than the raw rate.
    assert all(abs(own - 0.5) < abs(plain - 0.5) for plain, own in rates)


def test_a_judge_that_does_not_mind_length_gives_the_same_rate_with_and_without_control() -> None:
    raw, controlled = values(rated(lambda pair: 1.0 if "e" in pair.first else 0.0, longer=0.5))
    assert raw == 1.0
    assert controlled > 0.99
    generator = np.random.default_rng(5)
    liked = {f"instruction {number}" for number in generator.permutation(COUNT)[: COUNT * 3 // 4]}
    raw, controlled = values(
        rated(lambda pair: float(("e" in pair.first) == (pair.instruction in liked)), longer=0.5, seed=3)
    )
    assert raw == 0.75
    assert controlled == pytest.approx(0.75, abs=0.05)


def test_a_longer_answer_that_is_liked_for_itself_still_wins_after_control() -> None:
    # The truth: σ(1) at equal length, and a liking for length beside it.
    generator = np.random.default_rng(1)
    lengths = standardised_difference(generator.normal(1, 1, 2000))
    chance = 1 / (1 + np.exp(-(1 + 1.5 * lengths)))
    drawn = generator.binomial(1, chance).astype(float)
    controlled = length_controlled(drawn, lengths, np.ones((1, 2000)))
    assert controlled[0] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)
    assert drawn.mean() > controlled[0] + 0.05


def test_the_fit_is_that_of_scikit_learn_with_soft_targets_as_two_weighted_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pkedit.evaluate.win_rate.MODEL_PENALTY", LENGTH_PENALTY)
    generator = np.random.default_rng(2)
    lengths = standardised_difference(generator.normal(0.3, 1, 60))
    preferences = generator.choice([0.0, 0.25, 0.5, 1.0], 60)
    features = np.stack([np.ones(60), lengths], axis=1)
    reference = LogisticRegression(C=1 / LENGTH_PENALTY, fit_intercept=False, tol=1e-12, max_iter=1000).fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], 60),
        sample_weight=np.concatenate([preferences, 1 - preferences]),
    )
    expected = 1 / (1 + np.exp(-reference.coef_[0, 0]))
    assert length_controlled(preferences, lengths, np.ones((1, 60)))[0] == pytest.approx(expected, abs=1e-6)


def test_a_resample_is_fitted_as_if_its_instructions_had_been_repeated() -> None:
    generator = np.random.default_rng(4)
    lengths = standardised_difference(generator.normal(0, 1, 30))
    preferences = generator.choice([0.0, 1.0], 30)
    times = generator.integers(0, 3, 30)
    repeated = length_controlled(np.repeat(preferences, times), np.repeat(lengths, times), np.ones((1, times.sum())))
    weighted = length_controlled(preferences, lengths, np.stack([times, np.ones(30)]).astype(float))
    assert weighted[0] == pytest.approx(repeated[0])
    assert weighted[0] != pytest.approx(weighted[1])


def test_length_differences_are_divided_by_their_spread_but_not_centred() -> None:
    # Standard deviation of 10, 20, 30 (n − 1): 10.
    assert standardised_difference(np.array([10.0, 20.0, 30.0])) == pytest.approx(np.tanh([1.0, 2.0, 3.0]))
    assert standardised_difference(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert standardised_difference(np.array([7.0, 7.0])) == pytest.approx(np.tanh([1.0, 1.0]))
    assert standardised_difference(np.array([-7.0])) == pytest.approx(np.tanh([-1.0]))


def test_both_orders_are_asked_and_averaged() -> None:
    asked: list[AnswerPair] = []

    def judge(pairs: Sequence[AnswerPair]) -> list[float | None]:
        asked.extend(pairs)
        return [1.0, 0.5]

    rate = win_rate(["q"], ["edited"], ["original"], judge, seed=0)
    assert asked == [AnswerPair("q", "edited", "original"), AnswerPair("q", "original", "edited")]
    assert rate.preferences == (0.75,)
    assert values(rate)[0] == 0.75


def test_an_instruction_without_a_verdict_in_both_orders_is_left_out_and_counted() -> None:
    verdicts = [1.0, None, None, 1.0, 0.0, 1.0, None, 0.0]
    rate = win_rate(list("abcd"), list("abcd"), list("efgh"), lambda _: verdicts, seed=0)
    assert rate.preferences == (1.0, None, None, 1.0)
    assert (rate.unparsable, rate.left_out) == (3, 2)
    assert rate.raw is not None
    assert (rate.raw.value, rate.raw.n) == (1.0, 2)


def test_without_any_verdict_there_is_no_rate() -> None:
    rate = win_rate(["q"], ["e"], ["o"], lambda pairs: [None] * len(pairs), seed=0)
    assert (rate.raw, rate.length_controlled, rate.unparsable, rate.left_out) == (None, None, 2, 1)


def test_intervals_repeat_with_their_seed_and_hold_the_value() -> None:
    first, again = (rated(by_length, longer=0.3, seed=1) for _ in range(2))
    assert first == again
    for metric in (first.raw, first.length_controlled):
        assert metric is not None
        assert metric.low < metric.value < metric.high
        assert metric.n == COUNT


@pytest.mark.parametrize("verdict", [1.5, -0.1, float("nan")])
def test_a_preference_outside_zero_and_one_is_an_error(verdict: float) -> None:
    with pytest.raises(ValueError, match="preference"):
        win_rate(["q"], ["e"], ["o"], lambda _: [verdict, 0.5], seed=0)


def test_lists_that_are_not_pairs_and_missing_verdicts_are_errors() -> None:
    with pytest.raises(ValueError, match="not pairs"):
        win_rate(["q"], ["e"], [], lambda _: [], seed=0)
    with pytest.raises(ValueError, match="no instructions"):
        win_rate([], [], [], lambda _: [], seed=0)
    with pytest.raises(ValueError, match="2 comparisons"):
        win_rate(["q"], ["e"], ["o"], lambda _: [1.0], seed=0)
