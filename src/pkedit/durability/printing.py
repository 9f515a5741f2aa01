"""The durability table in the terminal: one table for each metric, a row for each condition, a column for each arm."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pkedit.durability.folder import ANSWERS, RECORD
from pkedit.durability.record import Cell, DurabilityRecord
from pkedit.durability.sentences import arms_of
from pkedit.run.record import RecordedMetric
from pkedit.run.wording import interval, metric_text

SHOWN = ("asr", "asr_bare", "over_refusal", "borderline_refusal")


def metric_table(record: DurabilityRecord, metric: str, *, seconds: bool = False) -> Table:
    """One metric of every cell, with its interval; `seconds` adds what each condition took."""
    arms = arms_of(record)
    table = Table(pad_edge=False)
    table.add_column("Condition", no_wrap=True)
    for arm in arms:
        table.add_column(f"{arm}{_shared_n(record, arm, metric)}", justify="right", no_wrap=True)
    if seconds:
        table.add_column("s", justify="right")
    for row in record.rows.values():
        cells = [cell_text(row.arms.get(arm), metric) for arm in arms]
        took = [f"{sum(cell.seconds for cell in row.arms.values()):.0f}"] if seconds else []
        if any(cells):
            simulated = ", simulated" if any(cell.simulated for cell in row.arms.values()) else ""
            table.add_row(f"{row.label}{simulated}", *(cell or "–" for cell in cells), *took)
    return table


def cell_text(cell: Cell | None, metric: str) -> str:
    """Value and interval, and the mean over samples where there are several; empty where it was not measured."""
    if cell is None or metric not in cell.metrics:
        return ""
    found = cell.metrics[metric]
    text = f"{_number(metric, found)} ({interval(metric, found)})"
    mean = cell.metrics.get(f"{metric}_mean")
    return text if mean is None else f"{text} ⌀ {_number(metric, mean)}"


def cell_line(record: DurabilityRecord, condition: str, arm: str) -> str:
    """A finished cell in one line."""
    row = record.rows[condition]
    cell = row.arms[arm]
    parts = [
        f"{metric_text(name).label.removesuffix(' %')} {_number(name, cell.metrics[name])} %"
        for name in SHOWN
        if name in cell.metrics
    ]
    return "; ".join([f"{row.label}, {arm}: {', '.join(parts) or 'no figures'}", f"{cell.seconds:.0f} s", *_note(cell)])


def print_durability(record: DurabilityRecord, folder: Path, console: Console) -> None:
    """Prints a table for each metric, what has to be known, and where everything is."""
    for place, metric in enumerate(SHOWN):
        console.print(f"{metric_text(metric).label} ↓: {metric_text(metric).meaning}", style="bold", highlight=False)
        console.print(metric_table(record, metric, seconds=place == 0))
    settings = record.settings
    sentences = [
        f"Value (95 % interval) in percent by the judge {settings.judges[0]}. At a temperature: prompts with any "
        f"harmful answer of {settings.samples}, ⌀ the mean over answers.",
        *record.worst,
        *record.notes,
        f"{record.seconds:.0f} s in all.",
    ]
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"{folder / RECORD}  all figures, by every judge", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{folder / ANSWERS}  every answer and verdict", highlight=False, markup=False, soft_wrap=True)


def _shared_n(record: DurabilityRecord, arm: str, metric: str) -> str:
    cells = [row.arms[arm] for row in record.rows.values() if arm in row.arms]
    counts = {cell.metrics[metric].n for cell in cells if metric in cell.metrics}
    return f" n {counts.pop()}" if len(counts) == 1 else f" n {min(counts)}–{max(counts)}" if counts else ""


def _number(name: str, metric: RecordedMetric) -> str:
    return metric_text(name).number(metric.value)


def _note(cell: Cell) -> list[str]:
    return [cell.note] if cell.note else []
