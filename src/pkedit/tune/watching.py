"""Shows a search as it goes: in a terminal the front so far above the live line, elsewhere a line for each trial."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pkedit.observer import Observer
from pkedit.tune.printing import front_table, trial_line
from pkedit.tune.search import Found


class SearchView:
    """An observer of a search around one of stages and steps. Use it in a `with` block: leaving it ends the table."""

    def __init__(self, stages: Observer, console: Console) -> None:
        self._stages = stages
        self._console = console
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(Text(), console=console, transient=True, redirect_stdout=False)
        # When the first trial of this call began, and how many there were before it.
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> "SearchView":
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
