"""Shows a run as it goes: one live line in a terminal, plain lines per stage anywhere else."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

STAGE_NAMES = {
    "load": "loading the model",
    "sample": "sampling the model's own answers",
    "locate": "locating the region",
    "causal": "checking the region against random ones",
}


class Watcher:
    """An observer of a run. Use it in a `with` block: leaving it ends the live line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._started = 0.0
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Watcher":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        self._progress.stop()

    def stage(self, name: str) -> None:
        """A stage begins; the one before is over."""
        self._close()
        self._stage, self._started = STAGE_NAMES.get(name, _sentence(name)), time.perf_counter()
        if not self._console.is_terminal:
            self._console.print(f"{self._stage} …", highlight=False, markup=False)
        self._task = self._progress.add_task(self._stage, total=None, steps="", note="")

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, steps=f"{done}/{total}", note=note)

    def _close(self) -> None:
        if self._task is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        seconds = time.perf_counter() - self._started
        self._console.print(f"{self._stage}: {seconds:.1f} s", highlight=False, markup=False)


def _sentence(stage: str) -> str:
    """`edit pke` → `editing: pke`, for the stages that each arm has."""
    verb, _, arm = stage.partition(" ")
    return (
        f"{ {'edit': 'editing', 'measure': 'measuring', 'capability': 'giving tasks'}.get(verb, verb) }: {arm}"
        if arm
        else stage
    )
