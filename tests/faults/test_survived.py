"""Every fault that `table.py` counts is survived; the quick ones always, the others when slow tests are asked for."""

from pathlib import Path

import pytest
from kinds import KINDS, MOUNTING, can_mount, clock_backwards, damaged_when_finished, two_at_once


def test_a_run_beside_another_waits_its_turn(whole: Path, tmp_path: Path) -> None:
    assert [outcome for outcome in two_at_once(whole, tmp_path) if outcome.wrong] == []


def test_seconds_are_never_negative_and_numbers_never_depend_on_a_clock(whole: Path, tmp_path: Path) -> None:
    assert [outcome for outcome in clock_backwards(whole, tmp_path) if outcome.wrong] == []


def test_every_damaged_file_is_named(whole: Path, tmp_path: Path) -> None:
    outcomes = [*damaged_when_finished(whole, tmp_path, gone=False)]
    assert len(outcomes) == 3 * 15
    assert [outcome for outcome in outcomes if outcome.wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_is_survived(name: str, whole: Path, tmp_path: Path) -> None:
    if name in MOUNTING and not can_mount():
        pytest.skip("mounting a file system needs root")
    outcomes = [*KINDS[name](whole, tmp_path)]
    assert outcomes
    assert [outcome for outcome in outcomes if outcome.wrong] == []
