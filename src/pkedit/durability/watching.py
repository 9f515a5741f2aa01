"""Shows a durability table as it grows: in a terminal the table itself, elsewhere a line for each cell."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pkedit.durability.printing import cell_line, metric_table
from pkedit.durability.record import DurabilityRecord
from pkedit.observer import Observer


class DurabilityView:
    """An observer around one of stages and steps. Use it in a `with` block: leaving it ends the live table."""

    def __init__(self, stages: Observer, console: Console) -> None:
        self._stages = stages
        self._console = console
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(Text(), console=console, transient=True, redirect_stdout=False)
        self._began = time.perf_counter()

    def __enter__(self) -> "DurabilityView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stages.stage(name)

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage."""
        self._stages.step(done, total, note)

    def told(self, record: DurabilityRecord, condition: str, arm: str, total: int) -> None:
        """A cell is finished."""
        if self._live is not None:
            table = metric_table(record, "asr", seconds=True)
            cells = sum(len(row.arms) for row in record.rows.values())
            table.title, table.title_justify = "ASR %", "left"
            table.caption = f"{cells} of {total} cells, {time.perf_counter() - self._began:.0f} s so far"
            self._live.update(table, refresh=True)
        else:
            # Ends the stage, so that its own line comes before this one; "start" is told by none.
            self._stages.stage("start")
            self._console.print(cell_line(record, condition, arm), highlight=False, markup=False, soft_wrap=True)
