"""What a reader sees of a stream: the table, ages, what is left, and the chart."""

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from pkedit.run.record import RecordedMetric
from pkedit.stream.chart import LOWER, UPPER, stream_chart
from pkedit.stream.printing import by_age, measured_line, minutes_left, print_stream, stream_table
from pkedit.stream.record import Diverged, Measured, StreamEdit, StreamRecord
from pkedit.stream.settings import StreamSettings


def metric(value: float, n: int = 48) -> RecordedMetric:
    return RecordedMetric(value=value, n=n, low=max(value - 0.1, 0.0), high=value + 0.1)


def edit(number: int) -> StreamEdit:
    return StreamEdit(
        **{"number": number, "prompt_id": f"h{number}", "question": "?", "prompt": "?", "category": "other"},
        **{"attack": None, "safe": "sorry", "unsafe": "sure", "passed_over": 2, "steps": 5, "met": number != 3},
        **{"neurons": 32, "layers": [1], "largest": 0.5 * number, "strength": 0.5, "seconds": 6.0},
        kl=metric(number / 100, 24) if number % 5 == 0 else None,
        file=f"edits/{number:04}.safetensors",
    )


def measured(edits: int, lost: list[int], without: list[int] | None = None) -> Measured:
    shares = {"asr": 0.8 - edits / 200, "asr_bare": 0.9, "over_refusal": edits / 100, "borderline_refusal": 0.25}
    return Measured(
        edits=edits,
        without=without or [],
        metrics={name: metric(value) for name, value in shares.items()}
        | ({"fixed": metric(1 - len(lost) / edits, edits), "kl": metric(0.05, 24)} if edits else {}),
        held=[number for number in range(1, edits + 1) if number not in lost],
        lost=lost,
        seconds=40.0,
        file=f"measured/{edits:04}.jsonl",
    )


def record(*states: Measured, edits: int = 60, done: int | None = None) -> StreamRecord:
    count = max(one.edits for one in states) if done is None else done
    return StreamRecord(
        created="now",
        command="",
        settings=StreamSettings(edits=edits, every=20),
        versions={},
        hardware={},
        edits=[edit(number) for number in range(1, count + 1)],
        measured=list(states),
    )


def printed(found: StreamRecord) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_stream(found, Path("runs/stream"), console)
    return " ".join(console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ").split())  # type: ignore[attr-defined]


def test_ages_count_the_edits_made_afterwards_and_leave_out_what_is_out() -> None:
    found = by_age(measured(60, lost=[1, 40, 60], without=[2]))
    assert {label: (one.value, one.n) for label, one in found.items()} == {
        "0 to 9": (0.9, 10),
        "10 to 24": (pytest.approx(14 / 15), 15),
        "25 to 49": (1.0, 25),
        "50 to 99": (pytest.approx(8 / 9), 9),
    }
    assert list(by_age(measured(4, lost=[]))) == ["0 to 9"]


def test_a_measurement_is_one_line_with_intervals_and_the_time_left() -> None:
    found = record(measured(0, []), measured(20, [3]))
    line = measured_line(found, found.measured[-1]).replace("\N{NO-BREAK SPACE}", " ")
    assert line.startswith(
        "after 20 edits: Fixes held 95.0 % (85.0 to 105.0, n = 20); ASR 70.0 % (60.0 to 80.0, n = 48);"
    )
    # 40 edits of 6 s; 192 prompts twice and 40 and 60 edited ones, at 80 s for 192 twice and 20.
    seconds = 40 * 6 + 80 / (2 * 192 + 20) * (2 * 192 + 40 + 60)
    assert minutes_left(found) == pytest.approx(seconds / 60)
    assert line.endswith("KL 0.050 (0.000 to 0.150, n = 24); about 6 min left")
    assert minutes_left(record(measured(0, []))) is None
    assert minutes_left(record(measured(60, []))) is None
    assert "less than a minute left" in measured_line(record(measured(20, []), edits=21), measured(20, []))


def test_the_end_tells_the_ages_the_effort_and_what_is_missing() -> None:
    found = record(measured(0, []), measured(20, [3]), edits=30)
    found.exhausted, found.left_out = True, 2
    found.diverged.append(Diverged(prompt_id="h99", after=3, reason="NaN"))
    text = printed(found)
    assert "by age: 0 to 9 edits ago 100.0 % (72.2 to 100.0, n = 10); 10 to 24 edits ago 90.0 %" in text
    assert "20 edits, 6.0 s each with finding the next failure (40 prompts passed over)" in text
    assert (
        "1 edits ended at the last step. Mean strength 0.50 of what was learnt; largest change of a vector 10.0" in text
    )
    assert "There were 20 edits and not 30: behind them no prompt fails any more." in text
    assert "Left unedited, because the edit diverged: h99." in text
    assert "2 test questions are not measured" in text
    assert "runs/stream/delta.safetensors" in text


def test_a_state_without_some_edits_is_named_so() -> None:
    found = record(measured(0, []), measured(20, [3]), measured(20, [3, 7], without=[7, 8]))
    found.without = [7, 8]
    assert "20 without 7, 8" in printed(found)
    assert (
        "Out of the model: 7, 8; it is the base with the other edits, bit for bit; of their prompts 1 of 2"
        in printed(found)
    )
    assert stream_table(found).row_count == 3


def test_the_chart_has_a_point_for_every_kl_and_every_rate_where_its_value_is() -> None:
    found = record(measured(0, []), measured(20, [3]), measured(20, [3, 7], without=[7]))
    page = ElementTree.fromstring(stream_chart(found))
    upper, lower = page.findall("{http://www.w3.org/2000/svg}svg")
    circle = "{http://www.w3.org/2000/svg}circle"
    circles = [[(float(one.get("cx")), float(one.get("cy"))) for one in part.iter(circle)] for part in (upper, lower)]  # type: ignore[arg-type]
    # None before the first edit, after 5, 10 and 15, and at the measurement after 20.
    assert len(circles[0]) == 5
    left, right = circles[0][0], circles[0][-1]
    assert left == (UPPER.left, UPPER.height - UPPER.bottom)
    assert right[0] == UPPER.width - UPPER.right
    assert right[1] < left[1]
    # Fixes held once, four rates twice.
    assert len(circles[1]) == 9
    height = LOWER.height - LOWER.top - LOWER.bottom
    assert circles[1][0][1] == pytest.approx(LOWER.height - LOWER.bottom - 0.95 * height, abs=0.1)
    ElementTree.fromstring(stream_chart(record(measured(0, []))))
