"""Shows a run as it goes: one live line in a terminal, one plain line for each finished stage anywhere else.

It belongs on standard error: standard output is for results.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from pkedit.run.library_bars import heard_bars, wake_bars

STAGE_NAMES = {
    "start": "starting",
    "load": "loading the model",
    "sample": "sampling the model's own answers",
    "locate": "locating the region",
    "causal": "checking the region against random ones",
    "explain": "tracing what the edit changed",
    "reference": "computing the edit's logits",
    "save": "saving",
    "compare": "loading what was saved and comparing it with the edit",
    "restore": "putting the original vectors back",
    "upload": "uploading to the Hub",
    "check": "reading the configuration and measuring this machine",
}
VERBS = {
    "judge": "judging by",
    "edit": "editing",
    "measure": "measuring",
    "capability": "giving tasks to",
    "win rate": "comparing answers of",
}
# What is no stage of a run is shown while it goes on, and not told when it is over.
UNTOLD = ("start", "check")
# Narrower terminals have no room for a bar, then none for a note.
ROOM_FOR_BAR, ROOM_FOR_NOTE = 80, 110
# Of shorter times no rate is worth telling.
TELLING_SECONDS = 1.0


class Watcher:
    """An observer of a run. Use it in a `with` block: leaving it ends the live line.

    What libraries print meanwhile goes where the progress goes. `hears`: whether the libraries' own progress bars are
    told as steps of stages that have none of their own; otherwise they are left alone.
    """

    def __init__(self, console: Console, *, hears: bool = True) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._hears = hears and self._live
        self._stage: str | None = None
        self._began = 0.0
        self._counted: list[list[tuple[float, int]]] = []
        self._has_own_steps = False
        self._task: TaskID | None = None
        self._progress = Progress(
            *_columns(console.width),
            console=console,
            transient=True,
            expand=True,
            disable=not self._live,
            redirect_stdout=False,
        )
        self._stack = ExitStack()

    @property
    def console(self) -> Console:
        """Where it shows. Whoever shows more at the same time does it there, for two consoles overwrite each other."""
        return self._console

    def __enter__(self) -> "Watcher":
        self._stack.enter_context(redirect_stdout(sys.stderr))
        if self._hears:
            self._stack.enter_context(heard_bars(self._hear))
        self._stack.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        self._stack.close()

    def stage(self, name: str) -> None:
        """A stage begins; the one before is over."""
        self._close()
        self._stage, self._began = name, time.perf_counter()
        self._counted, self._has_own_steps = [], False
        self._task = self._progress.add_task(stage_words(name), total=None, note="", began=self._began)
        if self._hears:
            wake_bars()

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage; a total of 0 is one that is not known."""
        self._has_own_steps = True
        self._show(done, total, note)

    def _hear(self, done: int, total: int, note: str) -> None:
        if not self._has_own_steps:
            self._show(done, total, note)

    def _show(self, done: int, total: int, note: str) -> None:
        if self._task is None:
            return
        if not self._counted or done < self._counted[-1][-1][1]:
            # Another count begins within the stage: its rate is not that of the one before.
            self._progress.reset(self._task)
            self._counted.append([])
        self._counted[-1].append((time.perf_counter(), done))
        self._progress.update(self._task, completed=done, total=total or None, note=note)

    def _close(self) -> None:
        if self._task is None or self._stage is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        seconds = time.perf_counter() - self._began
        if self._stage not in UNTOLD:
            rate = _rate(self._counted) if self._has_own_steps else None
            line = f"{stage_words(self._stage)}: {seconds:.1f} s{'' if rate is None else f' ({rate})'}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def stage_words(stage: str) -> str:
    """What a stage does, in words: `edit pke` → `editing: pke`."""
    if stage in STAGE_NAMES:
        return STAGE_NAMES[stage]
    for verb, words in VERBS.items():
        if stage.startswith(f"{verb} "):
            return f"{words}: {stage.removeprefix(f'{verb} ')}"
    return stage


def rate_words(per_second: float) -> str:
    """A rate in the unit that suits it: `4.8/s`, or `12 s each` for what takes longer than a second."""
    if per_second < 1:
        return f"{1 / per_second:.{1 if per_second > 0.1 else 0}f} s each"
    return f"{per_second:.{1 if per_second < 10 else 0}f}/s"


def clock(seconds: float) -> str:
    """`0:09`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(counts: Sequence[Sequence[tuple[float, int]]]) -> str | None:
    """How many there were of what took longest, and the rate between its first step and its last.

    None where that was too short a time.
    """
    if not counts:
        return None
    counted = max(counts, key=lambda steps: steps[-1][0] - steps[0][0])
    (began, first), (ended, last) = counted[0], counted[-1]
    if ended - began < TELLING_SECONDS or last == first:
        return None
    return f"{last} at {rate_words((last - first) / (ended - began))}"


def _columns(width: int) -> list[ProgressColumn]:
    """The parts of the live line, as many as there is room for; none breaks the line."""
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=rest if width < ROOM_FOR_NOTE else whole),
        *([BarColumn(bar_width=16)] if width >= ROOM_FOR_BAR else []),
        _Steps(table_column=whole),
        _Rate(table_column=whole),
        _Times(table_column=whole),
    ]
    if width >= ROOM_FOR_NOTE:
        columns.append(TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=rest))
    return columns


class _Steps(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{int(task.completed)}" if task.completed else "")
        return Text(f"{int(task.completed)}/{int(task.total)}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(rate_words(task.speed) if task.speed else "")


class _Times(ProgressColumn):
    """Time gone, and time left as far as the rate tells it."""

    def render(self, task: Task) -> Text:
        left = "" if not task.time_remaining else f", {clock(task.time_remaining)} left"
        return Text(f"{clock(time.perf_counter() - task.fields['began'])}{left}")
