"""Rows, ratios, curves and the order of the runs, on numbers that are known."""

import pytest
import torch

from pkedit.bench.figures import Ratio, make_curve, make_row
from pkedit.bench.growth_chart import growth_chart
from pkedit.bench.measuring import Measured, StepClock, alternately, time_ratios
from pkedit.bench.peak import MemoryUse

CPU = torch.device("cpu")


def run(seconds: float, extra: int = 0) -> Measured:
    return Measured(seconds, MemoryUse(100, 100 + extra))


def test_a_row_has_medians_and_shares() -> None:
    row = make_row(
        "a", [run(9.0, 4), run(2.0, 8), run(1.0, 6)], tokens=10, weight_bytes=12, flops=40.0, peak_flops=100.0
    )
    assert (row.seconds, row.extra_bytes, row.weights_share) == (2.0, 6, 0.5)
    assert row.tokens_per_second == 5.0
    assert row.peak_share == pytest.approx(0.2)


def test_the_ratio_is_the_median_of_ratios_within_repeats() -> None:
    # The second repeat was disturbed, the thing and its floor alike.
    ratio = Ratio("a", time_ratios([run(2.0), run(20.0), run(2.2)], [run(1.0), run(10.0), run(1.0)]), target=2.0)
    assert ratio.value == 2.0
    assert ratio.holds is True
    assert Ratio("b", (0.9,), target=0.95, at_least=True).holds is False
    assert Ratio("c", (0.9,)).holds is None


def test_works_run_in_turn_and_may_say_their_own_time() -> None:
    order: list[str] = []

    def own_time() -> float:
        order.append("own")
        return 7.0

    def on_the_clock() -> None:
        order.append("clock")

    told: list[tuple[int, int]] = []
    runs = alternately({"own": own_time, "clock": on_the_clock}, 2, CPU, lambda done, total: told.append((done, total)))
    assert order == ["own", "clock"] * 2
    assert [one.seconds for one in runs["own"]] == [7.0, 7.0]
    assert all(0.0 < one.seconds < 1.0 for one in runs["clock"])
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_step_is_timed_without_the_first() -> None:
    clock = StepClock(CPU)
    clock()
    with pytest.raises(ValueError, match="must be two"):
        _ = clock.seconds
    clock()
    assert clock.steps == 2
    assert clock.seconds >= 0.0


def test_a_straight_line_has_r_squared_one_and_its_constant_shows_per_unit() -> None:
    proportional = make_curve("locate", "pairs", (1, 2, 3, 4), (2.0, 4.0, 6.0, 8.0))
    assert proportional.r_squared == pytest.approx(1.0)
    assert proportional.per_unit == pytest.approx(1.0)
    with_start = make_curve("edit", "pairs", (1, 2, 3, 4), (3.0, 4.0, 5.0, 6.0))
    assert with_start.r_squared == pytest.approx(1.0)
    assert with_start.per_unit == pytest.approx(0.5)
    quadratic = make_curve("edit", "pairs", (1, 2, 3, 4), (1.0, 4.0, 9.0, 16.0))
    assert quadratic.r_squared < 0.99
    assert quadratic.per_unit == pytest.approx(4.0)


def test_the_plot_is_a_file_of_its_own_with_every_curve() -> None:
    curves = [make_curve(name, "pairs", (1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0)) for name in ("locate", "edit")]
    text = growth_chart(curves)
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert text.count("<polyline") == 2
    assert "locate: 1 to 4 pairs, 1.00 to 4.00 s, R² 1.000" in text
    assert "&lt;style" not in text
