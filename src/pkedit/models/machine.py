"""What a machine can do and hold: its measured rates of arithmetic and of copying, and what is free on it."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from pkedit.models.costs import Peaks

# Large enough to be bound by arithmetic, small enough for a few dozen rounds in the time given.
MATRIX_SIZE = {"cpu": 1024, "cuda": 4096}
# Several times what the last level of a processor's or a GPU's cache holds.
COPIED_BYTES = 256 << 20
# Of each of the two measurements. A round is fast when nothing else ran meanwhile, so the fastest counts.
SECONDS = 0.15

# Where Linux tells a container's limit and its use (control groups, version 2).
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. `place` is torch's name of it (`cpu`, `cuda:0`), `name` the maker's."""

    place: str
    name: str
    free: int
    total: int


def measure_peaks(device: str, dtype: torch.dtype) -> Peaks:
    """Multiplies two square matrices and copies a block of memory for a fraction of a second each.

    Args:
        device: as torch names it; not `auto`.
        dtype: of the matrices.
    """
    size = MATRIX_SIZE.get(torch.device(device).type, MATRIX_SIZE["cpu"])
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(left)
    multiplying = _fastest(lambda: torch.mm(left, right, out=product), device)
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _fastest(lambda: target.copy_(source), device)
    return Peaks(2.0 * size**3 / multiplying, 2.0 * COPIED_BYTES / copying)


def memories() -> tuple[Memory, ...]:
    """The main memory, then that of each CUDA device."""
    return (host_memory(), *gpu_memories())


def host_memory() -> Memory:
    """The main memory, or what a container may use of it."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    limit = _container_limit()
    if limit is not None and limit[1] < total:
        free, total = min(free, limit[0]), limit[1]
    return Memory("cpu", "main memory", free, total)


def gpu_memories() -> tuple[Memory, ...]:
    """The memory of each CUDA device."""
    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Memory(f"cuda:{number}", torch.cuda.get_device_name(number), free, total))
    return tuple(found)


def free_disk(path: Path) -> int:
    """Bytes free where `path` is, or would be once it and its parents are made."""
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest round."""
    synchronise = torch.cuda.synchronize if torch.device(device).type == "cuda" else None
    rounds: list[float] = []
    # The first round makes kernels and touches memory for the first time.
    for _ in range(2):
        end = time.perf_counter() + (SECONDS if rounds else 0.0)
        while not rounds or time.perf_counter() < end:
            started = time.perf_counter()
            work()
            if synchronise is not None:
                synchronise()
            rounds.append(time.perf_counter() - started)
    return min(rounds)


def _container_limit() -> tuple[int, int] | None:
    """Bytes that the container may still take, and in all; None where it has no limit."""
    limit_file, used_file = LIMIT_FILES
    if not limit_file.is_file() or not used_file.is_file():
        return None
    limit = limit_file.read_text(encoding="ascii").strip()
    if limit == "max":
        return None
    return max(int(limit) - int(used_file.read_text(encoding="ascii")), 0), int(limit)
