"""The most memory that a piece of work takes, beside what was taken when it began."""

import gc
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.autograd.profiler import profile

from pkedit.models.memory import give_back_freed_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# See proc_pid_clear_refs(5): sets the high-water mark to what is resident now.
RESET_HIGH_WATER_MARK = "5"
# Seconds between two looks, where the system keeps no mark that can be reset.
INTERVAL = 0.002
# Above every level of the profiler, which otherwise tells that it starts and stops.
SILENT = "99"


@dataclass(frozen=True)
class MemoryUse:
    """Bytes taken when the work began, and the most that were taken at once while it ran.

    On a GPU those that tensors take; on a processor the resident memory of the whole process.
    """

    before: int
    highest: int

    @property
    def extra(self) -> int:
        """What the work took beside what was there."""
        return self.highest - self.before


def memory_of(work: Callable[[], object], device: torch.device) -> MemoryUse:
    """Runs `work` and says how much memory it took on this kind of device; what was freed before is given back first.

    Of a model spread over several GPUs, the sum of their own peaks, which need not come at the same moment.
    """
    gc.collect()
    if device.type == "cuda":
        return _on_gpus(work)
    give_back_freed_memory()
    if _reset_mark():
        before = _status("VmRSS")
        work()
        return MemoryUse(before, _status("VmHWM"))
    return _sampled(work)


def live_peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes of the tensors that `work` held at once at most, beside those that were there before.

    Exact, where resident memory also has what the C library keeps of freed tensors and what kernels work in. On a
    processor torch's profiler counts them, which takes a tenth of the time more.
    """
    if device.type == "cuda":
        return memory_of(work, device).extra
    os.environ.setdefault("KINETO_LOG_LEVEL", SILENT)
    with profile(profile_memory=True) as profiled:
        work()
    results = profiled.kineto_results
    assert results is not None, "this torch was built without the profiler"
    changes = [event for event in results.events() if event.name() == "[memory]"]
    live = highest = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        live += change.nbytes()
        highest = max(highest, live)
    return highest


def _on_gpus(work: Callable[[], object]) -> MemoryUse:
    numbers = range(torch.cuda.device_count())
    torch.cuda.empty_cache()
    for number in numbers:
        torch.cuda.reset_peak_memory_stats(number)
    before = sum(torch.cuda.memory_allocated(number) for number in numbers)
    work()
    return MemoryUse(before, sum(torch.cuda.max_memory_allocated(number) for number in numbers))


def _reset_mark() -> bool:
    """Whether the system has a high-water mark of this process, and let it be reset."""
    if not STATUS.is_file() or "VmHWM" not in STATUS.read_text(encoding="ascii", errors="replace"):
        return False
    try:
        CLEAR.write_text(RESET_HIGH_WATER_MARK, encoding="ascii")
    except OSError:
        # Some containers forbid it.
        return False
    return True


def _status(name: str) -> int:
    """A line of the process's status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    assert found is not None, f"{STATUS} has no line {name}"
    return int(found[1]) * 1024


def _sampled(work: Callable[[], object]) -> MemoryUse:
    """Looks every few milliseconds, so a shorter peak may be missed."""
    process = psutil.Process()
    before = highest = process.memory_info().rss
    ended = threading.Event()

    def look() -> None:
        nonlocal highest
        while not ended.wait(INTERVAL):
            highest = max(highest, process.memory_info().rss)

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        work()
    finally:
        highest = max(highest, process.memory_info().rss)
        ended.set()
        watching.join()
    return MemoryUse(before, highest)
