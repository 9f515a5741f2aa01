"""Benchmarks of tiny models, on a machine that is measured in a moment."""

import pytest

from small_settings import measure_machines_briefly


@pytest.fixture(autouse=True)
def _machines_are_measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_machines_briefly(monkeypatch)
