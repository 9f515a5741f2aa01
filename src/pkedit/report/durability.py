"""Does the edit last? The table of `durability.json`, where `pkedit durability` has measured one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pkedit.report.files import Finite, read_file
from pkedit.run.record import RecordedMetric

SHOWN = ("asr", "asr_bare", "over_refusal", "borderline_refusal")


class DurabilityCell(BaseModel):
    """One arm under one condition; without metrics where it could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, RecordedMetric] = {}
    unjudged: dict[str, int] = {}
    seconds: Finite = 0.0
    preparing: Finite = 0.0
    simulated: bool = False
    note: str = ""


class DurabilityRow(BaseModel):
    """A condition in words, and its cells by arm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    source: str
    arms: dict[str, DurabilityCell] = {}

    @property
    def seconds(self) -> float:
        """What all arms took."""
        return sum(cell.seconds for cell in self.arms.values())

    @property
    def simulated(self) -> bool:
        """Whether any cell is an imitation."""
        return any(cell.simulated for cell in self.arms.values())


class DurabilityFile(BaseModel):
    """`durability.json`. `notes`: what has to be known of it, in sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    created: str = ""
    model: str = ""
    settings: dict[str, Any] = {}
    edits: dict[str, str] = {}
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    rows: dict[str, DurabilityRow]
    worst: list[str] = []
    notes: list[str] = []


@dataclass(frozen=True)
class Durability:
    """What the page shows. `metrics`: those of `SHOWN` that any cell has."""

    file: DurabilityFile
    arms: Sequence[str]
    metrics: Sequence[str]

    def rows_of(self, metric: str) -> list[DurabilityRow]:
        """The conditions under which any arm has this metric."""
        return [row for row in self.file.rows.values() if any(metric in cell.metrics for cell in row.arms.values())]

    def shared_n(self, metric: str) -> int | None:
        """n of a metric, where it is the same in all cells."""
        cells = [cell for row in self.file.rows.values() for cell in row.arms.values()]
        counts = {cell.metrics[metric].n for cell in cells if metric in cell.metrics}
        return counts.pop() if len(counts) == 1 else None


def durability(folder: Path) -> Durability | None:
    """The table of a run folder, or nothing where none was measured.

    Raises:
        RunFolderError: its file is damaged.
    """
    found = read_file(folder / "durability.json", DurabilityFile)
    if found is None or not found.rows:
        return None
    arms = list(dict.fromkeys(arm for row in found.rows.values() for arm in row.arms))
    there = {name for row in found.rows.values() for cell in row.arms.values() for name in cell.metrics}
    return Durability(found, arms, [name for name in SHOWN if name in there])
