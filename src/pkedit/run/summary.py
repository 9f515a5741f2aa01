"""The end of a run in the terminal: tables with intervals, the causal check, costs, and where everything is."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pkedit.run.next_steps import Step, next_steps
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.run.wording import (
    causal_sentence,
    edited_arm,
    interval,
    judge_sentences,
    measured_metrics,
    metric_text,
    outcome_sentence,
    shared_count,
    usage_sentences,
    verdict,
)

# The widest cell is an interval such as "0.000 to 0.000", between borders.
ARM_WIDTH, COLUMN_WIDTH = 12, 17
FILES = {
    "run.json": "settings, versions, timings, metrics",
    "region.json": "the neurons and their scores",
    "delta.safetensors": "the edit, and the originals it replaces",
    "responses.jsonl": "every prompt and answer with its verdict",
    "pathway.json": "the pathway from the prompt to unsafe words, as a graph",
    "words.json": "the words that edited neurons promote, before and after",
    "report.html": "all of this as one offline page",
}


def print_summary(console: Console, record: RunRecord, folder: Path, arguments: Sequence[str] = ()) -> None:
    """Prints what a run found, where everything is and what to do next.

    Args:
        console: where to.
        record: of the run.
        folder: where it is.
        arguments: of the command line that has just ended, for the commands that go on from it.
    """
    _print(console, f"Model: {record.settings.model} on {record.model_note}" if record.model_note else None)
    for table in metric_tables(record, console.width):
        console.print(table)
    if record.metrics:
        console.print("Value and 95 % interval; n is the number of prompts.", style="dim")
        others = [outcome_sentence(record, arm) for arm in record.verdicts if arm != edited_arm(record)]
        for sentence in [*verdict(record), *others, *judge_sentences(record)]:
            console.print(sentence, highlight=False)
    _print(console, causal_sentence(record))
    for sentence in usage_sentences(record):
        _print(console, sentence)
    _print(console, cost_sentence(record))
    console.print()
    for path in written_files(folder):
        content = FILES[path.name]
        console.print(f"{escape(str(path))}  [dim]{content}[/]", highlight=False, soft_wrap=True)
    print_steps(console, next_steps(record, folder, arguments))


def written_files(folder: Path) -> list[Path]:
    """The files of a run that are there."""
    return [folder / name for name in FILES if (folder / name).is_file()]


def print_steps(console: Console, steps: Sequence[Step]) -> None:
    """The commands that come next, each on a line of its own that can be copied whole."""
    if steps:
        console.print("Next:", highlight=False)
    for step in steps:
        line = f"  {step.command}  {step.purpose}"
        gap = "  " if len(line) <= console.width else "\n    "
        console.print(f"  {escape(step.command)}{gap}[dim]{step.purpose}[/]", highlight=False, soft_wrap=True)


def metric_tables(record: RunRecord, width: int) -> list[Table]:
    """Rows are arms, columns metrics; as many tables as the terminal's width asks for.

    ASR shares its table with over-refusal and KL at any width: on its own it would praise a model that refuses all.
    """
    names = measured_metrics(record)
    leading = ["asr", "over_refusal", "kl"]
    names = [name for name in leading if name in names] + [name for name in names if name not in leading]
    size = max(len(leading), (width - ARM_WIDTH) // COLUMN_WIDTH)
    return [_table(record, names[start : start + size]) for start in range(0, len(names), size)]


def cost_sentence(record: RunRecord) -> str | None:
    """Seconds by stage and the peak memory; seconds of stages that an earlier call finished are included."""
    if not record.stages:
        return None
    total = sum(stage.seconds for stage in record.stages.values())
    peak = max(stage.peak_memory for stage in record.stages.values())
    slowest = sorted(record.stages.items(), key=lambda item: -item[1].seconds)[:3]
    parts = ", ".join(f"{name} {stage.seconds:.0f} s" for name, stage in slowest)
    return f"{total:.0f} s in all ({parts}), peak memory {peak / 2**30:.2f} GiB."


def _table(record: RunRecord, names: list[str]) -> Table:
    table = Table(pad_edge=False)
    table.add_column("Arm", no_wrap=True)
    shared = {name: shared_count(record, name) for name in names}
    for name in names:
        arrow = {"lower": " ↓", "higher": " ↑"}.get(metric_text(name).better, "")
        count = "" if shared[name] is None else f"\nn {shared[name]}"
        table.add_column(metric_text(name).label + arrow + count, justify="right")
    for arm, metrics in record.metrics.items():
        table.add_row(arm, *(_cell(metrics, name, own_count=shared[name] is None) for name in names))
    return table


def _cell(metrics: dict[str, RecordedMetric], name: str, *, own_count: bool) -> str:
    metric = metrics.get(name)
    if metric is None:
        return "not measured"
    lines = [metric_text(name).number(metric.value), interval(name, metric), *([f"n {metric.n}"] if own_count else [])]
    return "\n".join(lines)


def _print(console: Console, text: str | None) -> None:
    if text:
        console.print(text, highlight=False, markup=False)
