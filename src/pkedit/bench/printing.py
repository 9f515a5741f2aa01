"""The figures in the terminal: what each thing costs, its ratios to floors beside their targets, and growth."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pkedit.bench.figures import Curve, Ratio, Row
from pkedit.bench.result import BenchResult

MEBIBYTE = 2**20


def print_bench(result: BenchResult, console: Console) -> None:
    """Prints all that a benchmark found."""
    rows = [row for stage in result.stages for row in stage.rows]
    ratios = [ratio for stage in result.stages for ratio in stage.ratios]
    curves = [curve for stage in result.stages for curve in stage.curves]
    if rows:
        console.print(_costs(rows))
        console.print(
            "Medians. Memory: the peak beside what was there before. Peak: what a large matrix product reaches here.",
            style="dim",
            highlight=False,
        )
    if ratios:
        console.print(_ratios(ratios))
    if curves:
        console.print(_growth(curves))
    for sentence in (*(note for stage in result.stages for note in stage.notes), *result.sentences()):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _costs(rows: Sequence[Row]) -> Table:
    table = _table("Cost", "Seconds", "Tokens/s", "Memory, MiB", "÷ weights", "Peak, %")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.seconds:.3g}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.extra_bytes / MEBIBYTE:,.0f}",
            f"{row.weights_share:.2f}",
            "–" if row.peak_share is None else f"{100 * row.peak_share:.0f}",
        )
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    table = _table("Ratio, median of the repeats", "Value", "Repeats", "Target", "")
    for ratio in ratios:
        sign = "≥" if ratio.at_least else "≤"
        table.add_row(
            ratio.name,
            f"{ratio.value:.3g}",
            " ".join(f"{value:.3g}" for value in ratio.values),
            "" if ratio.target is None else f"{sign} {ratio.target:g}",
            {None: "", True: "met", False: "missed"}[ratio.holds],
        )
    return table


def _growth(curves: Sequence[Curve]) -> Table:
    table = _table("Growth", "Sizes", "Seconds", "R² of a line", "Per unit, largest ÷ smallest")
    for curve in curves:
        table.add_row(
            f"{curve.name}, by {curve.unit}",
            " ".join(map(str, curve.sizes)),
            " ".join(f"{seconds:.2f}" for seconds in curve.seconds),
            f"{curve.r_squared:.3f}",
            f"{curve.per_unit:.2f}",
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
