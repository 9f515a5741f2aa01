"""A search in the terminal: the table of its front, a line for each trial, and what the chosen point gave."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.run.wording import interval, metric_text, with_interval
from pkedit.tune.search import Found
from pkedit.tune.trials import OBJECTIVES, RULE, Trial

# The settings that a table has columns for; the chosen ones are told in full beneath it.
SETTINGS = {
    "locate.neurons": "Neurons",
    "edit.learning_rate": "Rate",
    "edit.steps": "Steps",
}
MOST_ROWS = 8
# Narrower tables have figures alone.
ROOM_FOR_SETTINGS = 110


def front_table(found: Found, width: int) -> Table:
    """The unedited model and the trials on the front, fewest harmful answers first, the chosen one marked."""
    table = Table(pad_edge=False, caption=_caption(found), caption_justify="left")
    table.add_column("Trial", no_wrap=True)
    for name in OBJECTIVES:
        table.add_column(f"{metric_text(name).label} ↓", justify="right")
    shown = {name: label for name, label in SETTINGS.items() if any(name in one.point for one in found.trials)}
    if width < ROOM_FOR_SETTINGS:
        shown = {}
    for label in (*shown.values(), "s"):
        table.add_column(label, justify="right")
    if found.vanilla:
        table.add_row("as it is", *_cells(found.vanilla), *[""] * (len(shown) + 1))
    for trial in _best(found):
        settings = [f"{trial.point[name]:.3g}" for name in shown]
        mark, style = ("→ ", "bold") if trial == found.chosen else ("  ", None)
        table.add_row(f"{mark}{trial.number}", *_cells(trial.metrics), *settings, f"{trial.seconds:.0f}", style=style)
    return table


def trial_line(found: Found) -> str:
    """The trial that has just finished, in one line."""
    trial = found.trials[-1]
    if trial.failure is not None:
        return f"trial {trial.number} failed after {trial.seconds:.0f} s: {trial.failure}"
    figures = "; ".join(
        f"{metric_text(name).label.removesuffix(' %').removesuffix(' nats')} {with_interval(name, trial.metrics[name])}"
        for name in OBJECTIVES
    )
    place = "would be chosen now" if trial == found.chosen else "on the front" if trial.front else "behind the front"
    return f"trial {trial.number}: {figures}; {trial.seconds:.0f} s; {place}"


def print_found(console: Console, found: Found, record: RunRecord, *, ended_early: bool) -> None:
    """Prints the front, the rule, what it chose, and what that gave on either split.

    Args:
        console: where to.
        found: the search.
        record: of the run with the chosen settings.
        ended_early: whether more trials were asked for than could still be made.
    """
    console.print(front_table(found, console.width))
    sentences = [f"Rule: {RULE}.", _chosen_sentence(found), _splits_sentence(found, record)]
    if ended_early:
        sentences.append("There are no further trials once the chosen settings have met the test split: another --out.")
    for sentence in sentences:
        if sentence:
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print()


def _chosen_sentence(found: Found) -> str | None:
    if found.chosen is None:
        return None
    start = " (the settings that the search started from)" if found.chosen.number == 0 else ""
    point = ", ".join(f"{name} {value:.3g}" for name, value in found.chosen.point.items())
    return f"Chosen: trial {found.chosen.number}{start}: {point}."


def _splits_sentence(found: Found, record: RunRecord) -> str | None:
    """The chosen point on the prompts that chose it, which flatter it, and on those that did not."""
    measured = record.metrics.get("pke", {})
    if found.chosen is None or not measured:
        return None
    parts = [
        f"{text.label} {text.number(found.chosen.metrics[name].value)} → {text.number(measured[name].value)}"
        for name in OBJECTIVES
        if name in measured
        for text in [metric_text(name)]
    ]
    return f"On the prompts that it was chosen by → on the test split: {', '.join(parts)}."


def _best(found: Found) -> list[Trial]:
    front = sorted((one for one in found.trials if one.front), key=lambda one: _order(one.metrics))
    best = front[:MOST_ROWS]
    if found.chosen is not None and found.chosen not in best:
        best[-1] = found.chosen
    return best


def _order(metrics: Mapping[str, RecordedMetric]) -> tuple[float, ...]:
    return tuple(metrics[name].value for name in OBJECTIVES)


def _cells(metrics: Mapping[str, RecordedMetric]) -> list[str]:
    return [f"{metric_text(name).number(metrics[name].value)}\n{interval(name, metrics[name])}" for name in OBJECTIVES]


def _caption(found: Found) -> str:
    front = sum(trial.front for trial in found.trials)
    failed = sum(trial.failure is not None for trial in found.trials)
    counts = ", ".join(str(found.vanilla[name].n) for name in OBJECTIVES) if found.vanilla else ""
    parts = [
        f"{front} on the front of {len(found.trials)} trials" + (f", {failed} failed" if failed else ""),
        f"the best {MOST_ROWS} are shown" if front > MOST_ROWS else "",
        f"value and 95 % interval on the select split, n = {counts}" if counts else "",
        "→ chosen by the rule" if found.chosen else "",
    ]
    return "; ".join(part for part in parts if part)
