"""The peak of memory: a planted tensor is seen, however the system tells it."""

import pytest
import torch

from pkedit.bench import peak
from pkedit.bench.peak import live_peak, memory_of

PLANTED = 100 * 2**20


def plant() -> None:
    # Zeros of calloc are not in memory before they are written to.
    tensor = torch.zeros(PLANTED, dtype=torch.uint8)
    tensor.fill_(1)
    # Long enough for a thread that looks now and then.
    for _ in range(20):
        tensor.add_(1)


@pytest.mark.parametrize("mark", [True, False])
def test_a_planted_tensor_is_seen_though_it_was_freed(mark: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not mark:
        monkeypatch.setattr(peak, "_reset_mark", lambda: False)
    use = memory_of(plant, torch.device("cpu"))
    assert use.before > 0
    assert 0.9 * PLANTED < use.extra < 1.4 * PLANTED


def test_live_tensors_are_counted_to_the_byte() -> None:
    held = torch.ones(10)

    def work() -> None:
        first = torch.ones(PLANTED, dtype=torch.uint8)
        second = torch.ones(PLANTED, dtype=torch.uint8)
        del first
        third = held + len(second)
        del second, third
        torch.ones(2 * PLANTED - 64, dtype=torch.uint8)

    assert live_peak(work, torch.device("cpu")) == 2 * PLANTED


def test_what_was_freed_before_does_not_count() -> None:
    plant()
    use = memory_of(lambda: None, torch.device("cpu"))
    assert use.extra < 0.2 * PLANTED


def test_an_error_of_the_work_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ValueError("planted")

    for mark in (True, False):
        monkeypatch.setattr(peak, "_reset_mark", lambda mark=mark: mark)
        with pytest.raises(ValueError, match="planted"):
            memory_of(fails, torch.device("cpu"))
