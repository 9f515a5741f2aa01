"""Runs that differ in their seed alone are averaged, and arms compared run by run."""

from pathlib import Path

import pytest
from rich.console import Console

from pkedit.errors import RunFolderError
from pkedit.run.over_seeds import over_seeds, print_over_seeds
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.settings import RunSettings


def recorded(folder: Path, seed: int, rates: dict[str, float], **settings: object) -> Path:
    """A finished run in which each arm had this attack success rate."""
    folder.mkdir()
    record = RunRecord(settings=RunSettings.model_validate({"seed": seed, **settings}))
    record.metrics = {arm: {"asr": RecordedMetric(value=rate, n=72, low=0.0, high=1.0)} for arm, rate in rates.items()}
    record.save(folder)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """PKE is below random neurons by the same in each, though the runs themselves lie far apart."""
    rates = [(0.1, 0.2), (0.3, 0.4), (0.4, 0.5)]
    return [recorded(tmp_path / str(n), n, {"random": high, "pke": low}) for n, (low, high) in enumerate(rates)]


def test_means_stand_with_the_interval_over_runs(three: list[Path]) -> None:
    found = over_seeds(three)
    mean = found.merged.metrics["pke"]["asr"]
    assert found.seeds == (0, 1, 2)
    assert (mean.value, mean.n) == (pytest.approx(4 / 15), 3)
    # s = 0.1528, t(2) = 4.303
    assert mean.high == pytest.approx(4 / 15 + 4.303 * 0.1528 / 3**0.5, abs=1e-3)


def test_the_interval_of_a_rate_ends_where_rates_end(tmp_path: Path) -> None:
    rates = [(0.0, 1.0), (0.1, 0.9)]
    runs = [recorded(tmp_path / str(n), n, {"random": high, "pke": low}) for n, (low, high) in enumerate(rates)]
    found = over_seeds(runs)
    low, high = (found.merged.metrics[arm]["asr"] for arm in ("pke", "random"))
    # The half width of both is 0.64.
    assert (low.low, high.high) == (0.0, 1.0)
    assert low.high == pytest.approx(0.05 + 12.71 * 0.05, abs=1e-3)
    assert high.low == pytest.approx(0.95 - 12.71 * 0.05, abs=1e-3)
    # A difference may be on either side.
    (row,) = found.differences
    assert row.difference.low == pytest.approx(-0.9 - 12.71 * 0.1, abs=1e-3)


def test_arms_are_compared_run_by_run(three: list[Path]) -> None:
    (row,) = over_seeds(three).differences
    assert (row.arm, row.against, row.metric) == ("pke", "random", "asr")
    assert (row.difference.value, row.difference.n) == (pytest.approx(-0.1), 3)
    # What the runs have in common cancels out: the rates overlap, their difference is certain.
    assert row.difference.high == pytest.approx(-0.1)


def test_what_is_printed_says_which_runs_and_marks_what_is_certain(three: list[Path]) -> None:
    console = Console(record=True, width=120)
    print_over_seeds(over_seeds(three), console)
    said = " ".join(console.export_text().split())
    assert "over 3 runs (seeds 0, 1, 2)" in said
    assert "pke − random, run by run: ASR −10.0 (−10.0 to −10.0)*" in said


def test_arms_that_one_run_lacks_are_left_out(three: list[Path], tmp_path: Path) -> None:
    alone = recorded(tmp_path / "alone", 9, {"pke": 0.5})
    found = over_seeds([*three, alone])
    assert list(found.merged.metrics) == ["pke"]
    assert found.differences == ()


def test_runs_that_are_no_draws_of_one_thing_are_refused(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="two runs at least"):
        over_seeds(three[:1])
    with pytest.raises(RunFolderError, match="same seed"):
        over_seeds([*three, recorded(tmp_path / "again", 2, {"pke": 0.5})])
    with pytest.raises(RunFolderError, match="more than its seed"):
        over_seeds([*three, recorded(tmp_path / "other", 5, {"pke": 0.5}, pairs=7)])
    with pytest.raises(RunFolderError, match="no finished measurement"):
        over_seeds([*three, recorded(tmp_path / "empty", 5, {})])
