"""Shows a durability table as it grows: in a terminal the table itself, elsewhere a line for each cell."""

import time

from rich.console import Console

from pkedit.durability.printing import cell_line, metric_table
from pkedit.durability.record import DurabilityRecord
from pkedit.observer import Observer
from pkedit.run.live import LiveView


class DurabilityView(LiveView):
    """The table, or a line for each cell."""

    def __init__(self, stages: Observer, console: Console) -> None:
        super().__init__(stages, console)
        self._began = time.perf_counter()

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
