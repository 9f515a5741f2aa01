"""What became of the mutants, per file and in total."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mutants import Mutant
from rich.table import Table

from pkedit.evaluate.stats import Metric, proportion

# A mutant that makes a loop endless is noticed, if late.
NOTICED = ("killed", "timeout")


def share_killed(status_by_name: Mapping[str, str]) -> Metric:
    """The share of those tried that the tests noticed."""
    return proportion(sum(status in NOTICED for status in status_by_name.values()), len(status_by_name))


def outcome_table(mutants: Sequence[Mutant], status_by_name: Mapping[str, str]) -> Table:
    """A row per file: its mutants, those left out by a rule, those tried, and what became of those."""
    table = Table("File", pad_edge=False)
    for heading in ("Mutants", "Left out", "Tried", "Killed", "Timeout", "Survived", "Killed %"):
        table.add_column(heading, justify="right")
    files = sorted({mutant.file for mutant in mutants})
    for file in files:
        table.add_row(file, *_cells([mutant for mutant in mutants if mutant.file == file], status_by_name))
    table.add_section()
    table.add_row("all", *_cells(mutants, status_by_name))
    return table


def _cells(mutants: Sequence[Mutant], status_by_name: Mapping[str, str]) -> list[str]:
    statuses = Counter(status_by_name[mutant.name] for mutant in mutants if mutant.name in status_by_name)
    tried, noticed = statuses.total(), sum(statuses[status] for status in NOTICED)
    left_out = sum(mutant.rule is not None for mutant in mutants)
    counts = (len(mutants), left_out, tried, statuses["killed"], statuses["timeout"], tried - noticed)
    return [*map(str, counts), f"{100 * noticed / tried:.1f}" if tried else "–"]
