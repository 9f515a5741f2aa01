"""Shows a search as it goes: in a terminal the front so far above the live line, elsewhere a line for each trial."""

import time

from rich.console import Console

from pkedit.observer import Observer
from pkedit.run.live import LiveView
from pkedit.tune.printing import front_table, trial_line
from pkedit.tune.search import Found


class SearchView(LiveView):
    """The front so far, or a line for each trial."""

    def __init__(self, stages: Observer, console: Console) -> None:
        super().__init__(stages, console)
        # When the first trial of this call began, and how many there were before it.
        self._began: tuple[float, int] | None = None

    def found(self, found: Found, total: int) -> None:
        """The search begins its first trial of this call, or has ended one."""
        first = self._began is None
        # Ends the stage, so that its own line comes before this one; "start" is told by none.
        self._stages.stage("start")
        if self._began is None:
            self._began = time.perf_counter(), len(found.trials)
        left = self._left(found, total)
        if self._live is not None:
            table = front_table(found, self._console.width)
            table.caption = f"{table.caption}{left}"
            self._live.update(table, refresh=True)
        elif not first:
            self._console.print(f"{trial_line(found)}{left}", highlight=False, markup=False, soft_wrap=True)

    def _left(self, found: Found, total: int) -> str:
        """The time that the trials still to come will take, by the mean of those of this call."""
        assert self._began is not None
        began, before = self._began
        done, waiting = len(found.trials) - before, total - len(found.trials)
        if done < 1 or waiting < 1:
            return ""
        minutes = (time.perf_counter() - began) / done * waiting / 60
        return f"; {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"
