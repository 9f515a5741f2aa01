"""Runs a thing and its floor one after the other, several times: what disturbs the machine disturbs both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from pkedit.bench.peak import MemoryUse, memory_of

# Runs the work. A number that it returns is its time in seconds, where not all that it did is to be counted.
Work = Callable[[], float | None]


@dataclass(frozen=True)
class Measured:
    """One run: seconds on the wall clock, and memory."""

    seconds: float
    memory: MemoryUse


class StepClock:
    """Notes when each step of a training ended. The first step, which has more to do than the others, never counts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended: list[float] = []

    def __call__(self, *_: object) -> None:
        """A step ended."""
        self._ended.append(now(self._device))

    @property
    def steps(self) -> int:
        """Steps that ended."""
        return len(self._ended)

    @property
    def seconds(self) -> float:
        """Mean seconds of a step.

        Raises:
            ValueError: there was no second step.
        """
        if self.steps < 2:
            raise ValueError("a step is timed from the end of the one before, so there must be two")
        return (self._ended[-1] - self._ended[0]) / (self.steps - 1)


def now(device: torch.device) -> float:
    """The clock in seconds, once everything that was asked of this device is done."""
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            torch.cuda.synchronize(number)
    return time.perf_counter()


def measured(work: Work, device: torch.device) -> Measured:
    """Time and memory of one run."""
    seconds = 0.0

    def timed() -> None:
        nonlocal seconds
        started = now(device)
        said = work()
        seconds = now(device) - started if said is None else said

    memory = memory_of(timed, device)
    return Measured(seconds, memory)


def alternately(
    works: Mapping[str, Work], repeats: int, device: torch.device, progress: Callable[[int, int], None] | None = None
) -> dict[str, list[Measured]]:
    """Each work once, in turn, and that `repeats` times: name → its runs.

    Args:
        works: by name.
        repeats: rounds.
        device: where the works run.
        progress: called after each run with how many there were and will be.
    """
    runs: dict[str, list[Measured]] = {name: [] for name in works}
    for repeat in range(repeats):
        for place, (name, work) in enumerate(works.items(), start=1):
            runs[name].append(measured(work, device))
            if progress is not None:
                progress(repeat * len(works) + place, repeats * len(works))
    return runs


def seconds_of(runs: list[Measured]) -> float:
    """The median time."""
    return median(run.seconds for run in runs)


def extra_of(runs: list[Measured]) -> float:
    """The median of the bytes taken beside what was there."""
    return median(run.memory.extra for run in runs)


def time_ratios(runs: list[Measured], floor: list[Measured]) -> tuple[float, ...]:
    """Time over the floor's, repeat by repeat."""
    return tuple(run.seconds / other.seconds for run, other in zip(runs, floor, strict=True))
