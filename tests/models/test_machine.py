"""What a machine can do is measured in a moment, and what is free on it is not overstated."""

import time
from pathlib import Path

import pytest
import torch

from pkedit.models import machine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_measured_within_a_second_or_two(dtype: torch.dtype) -> None:
    started = time.perf_counter()
    peaks = machine.measure_peaks("cpu", dtype)
    # Half a second on an idle machine; tests share theirs.
    assert time.perf_counter() - started < 10
    assert 1e8 < peaks.matmul_flops < 1e15
    assert 1e8 < peaks.bandwidth_bytes < 1e14


def test_main_memory_comes_first() -> None:
    first, *others = machine.memories()
    assert first.place == "cpu"
    assert 0 < first.free <= first.total
    assert len(others) == torch.cuda.device_count()


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(machine, "LIMIT_FILES", (limit, used))
    unlimited = machine.host_memory()
    limit.write_text("1000000\n")
    used.write_text("400000\n")
    assert (machine.host_memory().free, machine.host_memory().total) == (600_000, 1_000_000)
    limit.write_text("max\n")
    assert machine.host_memory().total == unlimited.total


def test_free_disk_of_a_folder_to_come_is_that_of_its_parent(tmp_path: Path) -> None:
    assert machine.free_disk(tmp_path / "not" / "there") > 0
