"""How often a judge prefers the edited model's answers to the original's: AlpacaEval-style win rates.

The length-controlled one answers what the rate would be if the two models' answers were equally long. Source:
Dubois, Galambosi, Liang & Hashimoto, "Length-Controlled AlpacaEval", 2024, arXiv 2404.04475, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pkedit.evaluate.stats import CONFIDENCE, Metric

Numbers = NDArray[np.float64]

# Beside the summed log-loss stands half the penalty times the coefficient's square. The model term's only keeps it
# finite where one side wins everything. The length term's keeps a judge that always takes the longer answer, and so
# separates the data, from having its estimate decided by one answer near equal length; ten times as much was tried,
# and pulled the result visibly back towards the raw win rate.
MODEL_PENALTY = 1e-3
LENGTH_PENALTY = 0.1
# Newton's method on two coefficients of a convex function is at rest after about ten steps.
NEWTON_STEPS = 50


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to one instruction, as a judge is shown them."""

    instruction: str
    first: str
    second: str


class Compare(Protocol):
    """A judge of pairs: for each the preference for the first answer in [0, 1], or None where it gave none."""

    def __call__(self, pairs: Sequence[AnswerPair], /) -> Sequence[float | None]: ...


@dataclass(frozen=True)
class WinRate:
    """Win rates of edited against original; 0.5 is a tie.

    `raw` is the mean preference, `length_controlled` the rate at equal length; both are None where no instruction got
    a verdict in both orders, and their n counts those that did. `unparsable` counts comparisons without a verdict, of
    2 per instruction; `left_out` the instructions that lost one. `preferences` has one entry per instruction, None
    where it was left out.
    """

    raw: Metric | None
    length_controlled: Metric | None
    unparsable: int
    left_out: int
    preferences: tuple[float | None, ...]


def win_rate(
    instructions: Sequence[str],
    edited: Sequence[str],
    original: Sequence[str],
    compare: Compare,
    *,
    seed: int,
    resamples: int = 1000,
) -> WinRate:
    """Asks for each instruction in both orders and averages, so that a judge's liking for a place cancels out.

    Args:
        instructions: what both models were asked.
        edited: the edited model's answers, in the same order.
        original: the original's answers.
        compare: the judge, asked once with all comparisons.
        seed: of the bootstrap over instructions.
        resamples: of the bootstrap.

    Raises:
        ValueError: the lists differ in length or are empty, or a preference is outside [0, 1].
    """
    if not len(instructions) == len(edited) == len(original):
        raise ValueError(f"{len(instructions)} instructions, {len(edited)} and {len(original)} answers: not pairs")
    if not instructions:
        raise ValueError("there are no instructions to compare on")
    ours = [AnswerPair(*texts) for texts in zip(instructions, edited, original, strict=True)]
    swapped = [AnswerPair(pair.instruction, pair.second, pair.first) for pair in ours]
    verdicts = [_checked(verdict) for verdict in compare([*ours, *swapped])]
    if len(verdicts) != 2 * len(ours):
        raise ValueError(f"asked for {2 * len(ours)} comparisons, but got {len(verdicts)}")
    halves = zip(verdicts[: len(ours)], verdicts[len(ours) :], strict=True)
    preferences = tuple(None if a is None or b is None else (a + 1 - b) / 2 for a, b in halves)
    judged = [number for number, preference in enumerate(preferences) if preference is not None]
    raw = controlled = None
    if judged:
        wins = np.array([preferences[number] for number in judged], dtype=np.float64)
        lengths = np.array([len(edited[number]) - len(original[number]) for number in judged], dtype=np.float64)
        raw, controlled = _rates(wins, standardised_difference(lengths), seed=seed, resamples=resamples)
    return WinRate(
        raw,
        controlled,
        unparsable=sum(verdict is None for verdict in verdicts),
        left_out=len(ours) - len(judged),
        preferences=preferences,
    )


def standardised_difference(differences: Numbers) -> Numbers:
    """tanh(Δ / σ) of the differences in length, edited minus original, in characters; 0 where all are equal.

    σ is the standard deviation of the differences; they are not centred, so that 0 means equally long. Where all are
    the same and not 0, their size stands in for σ.

    Source: Dubois et al. 2024, equation 2, second term.
    """
    spread = float(differences.std(ddof=1)) if differences.size > 1 else 0.0
    spread = spread or float(np.abs(differences).max())
    if spread == 0.0:
        return np.zeros_like(differences)
    standardised: Numbers = np.tanh(differences / spread)
    return standardised


def length_controlled(preferences: Numbers, lengths: Numbers, weights: Numbers) -> Numbers:
    """The win rate at equal length, σ(θ), for each row of `weights`.

    P(edited preferred) = σ(θ + φ · tanh(Δ/σ_Δ)) is fitted to the preferences, [instructions], by weighted logistic
    regression (the log-loss takes soft targets), and the length term is then set to zero.

    Simplified from the paper: there is one pair of models, so θ is the difference of the two models' terms, and there
    is no instruction term ψ · γ, which the paper estimates from the answers of many models. A fixed ridge penalty
    (`MODEL_PENALTY`, `LENGTH_PENALTY`) stands in for the cross-validated L1 penalty and the answers of verbose and
    terse baselines by which the authors' code keeps φ in bounds. What the control can do is limited by the data: where
    all of one model's answers are longer by about the same, preference for it and preference for length cannot
    be told apart.

    Source: Dubois et al. 2024, equations 2 and 3.

    Args:
        preferences: in [0, 1], for the edited answer.
        lengths: `standardised_difference` of the lengths.
        weights: how often each instruction counts, [fits, instructions].
    """
    features = np.stack([np.ones_like(lengths), lengths])
    penalty = np.array([MODEL_PENALTY, LENGTH_PENALTY])
    coefficients = np.zeros((len(weights), 2))
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(coefficients @ features)
        slope = (weights * (preferences - chance)) @ features.T - penalty * coefficients
        curvature = weights * chance * (1 - chance)
        bend = np.einsum("ik,fk,jk->fij", features, curvature, features) + np.diag(penalty)
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        # A full step can overshoot where the curve is flat; a bounded one cannot go far astray.
        coefficients += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return _sigmoid(coefficients[:, 0])


def _rates(wins: Numbers, lengths: Numbers, *, seed: int, resamples: int) -> tuple[Metric, Metric]:
    """Raw and length-controlled win rate with bootstrap percentile intervals over instructions."""
    count = len(wins)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = drawn.astype(np.float64)
    alone = np.ones((1, count))
    raw = _with_interval(float(wins.mean()), weights @ wins / count, count)
    controlled = float(length_controlled(wins, lengths, alone)[0])
    return raw, _with_interval(controlled, length_controlled(wins, lengths, weights), count)


def _with_interval(value: float, resampled: Numbers, count: int) -> Metric:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Metric(value, count, float(low), float(high))


def _sigmoid(values: Numbers) -> Numbers:
    chances: Numbers = 1 / (1 + np.exp(-values))
    return chances


def _checked(verdict: float | None) -> float | None:
    if verdict is not None and not 0 <= verdict <= 1:
        raise ValueError(f"a preference lies between 0 and 1, not {verdict}")
    return verdict
