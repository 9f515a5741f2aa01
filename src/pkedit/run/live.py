"""A table that stands in the terminal while work goes on, around what tells of stages and steps."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pkedit.observer import Observer


class LiveView:
    """An observer around one of stages and steps. Use it in a `with` block: leaving it ends the live table.

    `_live` is None where the console is no terminal; whoever derives from this prints lines there.
    """

    def __init__(self, stages: Observer, console: Console) -> None:
        self._stages = stages
        self._console = console
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(Text(), console=console, transient=True, redirect_stdout=False)

    def __enter__(self) -> Self:
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
