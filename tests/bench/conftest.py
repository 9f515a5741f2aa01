"""Benchmarks of tiny models, on a machine that is measured in a moment."""

import pytest


@pytest.fixture(autouse=True)
def _in_a_moment(_machines_are_measured_briefly: None) -> None:
    """For every test here."""
