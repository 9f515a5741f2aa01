"""The undisturbed run that all others are compared with."""

from pathlib import Path

import pytest
from small_run import run_small


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be read only."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    run_small(folder)
    return folder
