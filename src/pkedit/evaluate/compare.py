"""Paired comparisons of two arms that answered the same prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pkedit.evaluate.measure import Measurement, outcomes
from pkedit.evaluate.stats import Metric, holm, mcnemar, paired_difference

PAIRED_RATES = ("asr", "asr_bare", "over_refusal", "long_refusal", "borderline_refusal")


@dataclass(frozen=True)
class Comparison:
    """`difference` is arm − against with a paired bootstrap interval; `p_value` McNemar's, Holm-corrected
    over the arms compared on this metric (absent for means, whose interval is the test)."""

    metric: str
    arm: str
    against: str
    difference: Metric
    p_value: float | None


def compare_arms(measurements: Mapping[str, Measurement], against: str, *, seed: int) -> list[Comparison]:
    """Every other arm against one, on the rates of every judge, on every task and on KL."""
    base = measurements[against]
    others = {arm: measured for arm, measured in measurements.items() if arm != against}
    comparisons = []
    rates = [name for name in base.metrics if name.partition(":")[0] in PAIRED_RATES]
    for metric in [*rates, *base.tasks]:
        rows = []
        for arm, measured in others.items():
            before, after = _paired(_events(base, metric), _events(measured, metric))
            if before:
                difference = paired_difference([float(x) for x in before], [float(x) for x in after], seed=seed)
                rows.append((arm, difference, mcnemar(before, after)))
        corrected = holm([p for _, _, p in rows]) if rows else []
        comparisons += [
            Comparison(metric, arm, against, difference, p)
            for (arm, difference, _), p in zip(rows, corrected, strict=True)
        ]
    for arm, measured in others.items():
        if base.drift is not None and measured.drift is not None:
            difference = paired_difference(base.drift.divergence, measured.drift.divergence, seed=seed)
            comparisons.append(Comparison("kl", arm, against, difference, None))
    return comparisons


def _events(measured: Measurement, metric: str) -> Mapping[str, bool]:
    """Prompt or item → whether what the metric counts happened."""
    if metric.partition(":")[0] == "capability":
        return measured.tasks.get(metric, {})
    return outcomes(measured.responses, metric)


def _paired(before: Mapping[str, bool], after: Mapping[str, bool]) -> tuple[Sequence[bool], Sequence[bool]]:
    common = [key for key in before if key in after]
    return [before[key] for key in common], [after[key] for key in common]
