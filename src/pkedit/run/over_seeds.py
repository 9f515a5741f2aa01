"""`pkedit table --over-seeds`: means of runs that differ in their seed alone, and arms against each other run by run.

A seed deals the splits, draws the random neurons and the order of training, so one run is one draw. The interval of a
mean over runs says what the next run may bring; that of a single run says only what its prompts may.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console

from pkedit.errors import RunFolderError
from pkedit.evaluate.stats import mean_with_interval
from pkedit.run.record import RecordedComparison, RecordedMetric, RunRecord
from pkedit.run.summary import metric_tables
from pkedit.run.wording import interval, metric_text, settled

COMPARED = ("asr", "asr_bare", "over_refusal", "long_refusal", "borderline_refusal", "kl", "perplexity")


@dataclass(frozen=True)
class OverSeeds:
    """`merged` has the means of every arm as its metrics, n the number of runs; `differences` are paired by run."""

    merged: RunRecord
    seeds: tuple[int, ...]
    differences: tuple[RecordedComparison, ...]


def over_seeds(folders: Sequence[Path]) -> OverSeeds:
    """Means over finished runs with other seeds and otherwise the same settings, with t-intervals over runs.

    The intervals of means are cut where a metric ends: no rate is below zero or above one. Arms and metrics that not
    every run has are left out.

    Raises:
        RunFolderError: there are fewer than two folders, one holds no measurement, two have the same seed, or they
            differ in more than the seed.
    """
    if len(folders) < 2:
        raise RunFolderError("a mean over seeds needs two runs at least")
    records = [RunRecord.load(path) for path in folders]
    first = records[0]
    for path, record in zip(folders, records, strict=True):
        if not record.metrics:
            raise RunFolderError(f"{path} holds no finished measurement")
        if _without_seeds(record.settings.model_dump()) != _without_seeds(first.settings.model_dump()):
            raise RunFolderError(
                f"{path} differs from {folders[0]} in more than its seed; runs have to be alike otherwise"
            )
    seeds = tuple(record.settings.seed for record in records)
    if len(set(seeds)) < len(seeds):
        raise RunFolderError("two of the runs have the same seed, so they are no two draws")
    arms = [arm for arm in first.metrics if all(arm in record.metrics for record in records)]
    values = {
        arm: {
            name: [record.metrics[arm][name].value for record in records]
            for name in first.metrics[arm]
            if all(name in record.metrics[arm] for record in records)
        }
        for arm in arms
    }
    merged = first.model_copy(deep=True)
    merged.metrics = {
        arm: {name: _possible(name, _mean(each)) for name, each in own.items()} for arm, own in values.items()
    }
    differences = tuple(
        RecordedComparison(
            metric=name,
            arm=arm,
            against=against,
            difference=_mean(
                [one - other for one, other in zip(values[arm][name], values[against][name], strict=True)]
            ),
            p_value=None,
        )
        for against, arm in combinations(arms, 2)
        for name in COMPARED
        if name in values[arm] and name in values[against]
    )
    return OverSeeds(merged, seeds, differences)


def print_over_seeds(found: OverSeeds, console: Console) -> None:
    """Prints the means, and what one arm has more than another in the same runs."""
    for table in metric_tables(found.merged, console.width):
        console.print(table)
    seeds = ", ".join(map(str, found.seeds))
    console.print(
        f"Mean and 95 % interval over {len(found.seeds)} runs (seeds {seeds}), each with its own splits.", style="dim"
    )
    for against, arm in combinations(found.merged.metrics, 2):
        rows = [row for row in found.differences if (row.arm, row.against) == (arm, against)]
        said = "; ".join(_difference(row) for row in rows)
        console.print(f"{arm} − {against}, run by run: {said}. * leaves zero out.", highlight=False)


def _difference(row: RecordedComparison) -> str:
    text = metric_text(row.metric)
    label = text.label.removesuffix(" %")
    value = text.number(row.difference.value, sign=True)
    star = "*" if settled(row) else ""
    return f"{label} {value} ({interval(row.metric, row.difference, sign=True)}){star}"


def _without_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a run, and of its stages."""
    return {
        name: _without_seeds(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name != "seed"
    }


def _mean(values: Sequence[float]) -> RecordedMetric:
    mean = mean_with_interval(values)
    return RecordedMetric(value=mean.value, n=mean.n, low=mean.low, high=mean.high)


def _possible(name: str, mean: RecordedMetric) -> RecordedMetric:
    """No metric is below zero, and no rate above one."""
    high = mean.high
    if high is not None and metric_text(name).percent:
        high = min(1.0, high)
    return mean.model_copy(update={"low": None if mean.low is None else max(0.0, mean.low), "high": high})
