"""Progress: stage, step, rate and time left in a terminal, one line for each finished stage elsewhere."""

import io
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from tqdm import tqdm

from pkedit.run.library_bars import heard_bars
from pkedit.run.watching import Watcher, clock, rate_words, stage_words


def watched(
    work: Callable[[Watcher], None], *, width: int = 120, terminal: bool = True, **console: object
) -> list[str]:
    """The lines that were on the screen, one after another, without colours."""
    output = io.StringIO()
    with Watcher(Console(file=output, force_terminal=terminal, width=width, **console)) as watcher:  # type: ignore[arg-type]
        work(watcher)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def steps(watcher: Watcher) -> None:
    watcher.stage("edit pke")
    for done in range(1, 5):
        time.sleep(0.12)
        watcher.step(done, 40, "safe 0.50")
    time.sleep(0.15)


def test_a_terminal_sees_stage_step_rate_and_time_left() -> None:
    last = [line for line in watched(steps) if "4/40" in line][-1]
    assert re.search(r"editing: pke ━?.* 4/40 \d(\.\d)?/s 0:0\d, 0:0\d left +safe 0.50", last)


@pytest.mark.parametrize("width", [30, 60, 79])
def test_a_narrow_terminal_sees_them_in_one_line(width: int) -> None:
    lines = watched(steps, width=width)
    assert all(len(line) <= width for line in lines)
    assert any("4/40" in line and "left" in line for line in lines)


def test_a_pipe_sees_one_line_for_each_finished_stage() -> None:
    def work(watcher: Watcher) -> None:
        watcher.stage("start")
        watcher.stage("load")
        steps(watcher)

    lines = watched(work, terminal=False)
    assert [line.partition(" s")[0].rpartition(": ")[0] for line in lines] == ["loading the model", "editing: pke"]


def test_a_terminal_that_cannot_redraw_is_treated_as_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = watched(steps, force_interactive=False)
    assert len(lines) == 1
    assert lines[0].startswith("editing: pke: 0.")


def test_a_finished_stage_tells_the_rate_of_what_took_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("pkedit.run.watching.time.perf_counter", lambda: float(next(now)))

    def work(watcher: Watcher) -> None:
        watcher.stage("edit pke")
        for done in (4, 8, 12):
            watcher.step(done, 12)
        for done in (1, 2):
            watcher.step(done, 0)

    (line,) = watched(work, terminal=False)
    assert "(12 at 4.0/s)" in line


def test_bars_of_libraries_are_steps_of_stages_without_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    def work(watcher: Watcher) -> None:
        watcher.stage("load")
        for _ in tqdm(range(7), desc="weights", mininterval=0, disable=True):
            time.sleep(0.12)
        watcher.stage("measure pke")
        watcher.step(3, 9)
        for _ in tqdm(range(77), mininterval=0):
            pass
        time.sleep(0.12)

    text = " ".join(watched(work))
    assert "/7 " in text
    assert "weights" in text
    assert "3/9" in text
    assert "/77" not in text
    assert capfd.readouterr() == ("", "")


def test_bytes_are_told_in_megabytes_and_the_newest_bar_counts() -> None:
    heard: list[tuple[int, int, str]] = []
    with heard_bars(lambda *told: heard.append(told)):
        outer = tqdm(total=3, desc="files")
        inner = tqdm(total=8_000_000, desc="model", unit="B", mininterval=0)
        inner.update(5_000_000)
        outer.refresh()
        inner.close()
        outer.update(2)
        outer.refresh()
        outer.close()
    assert (5, 8, "model, MB") in heard
    assert heard[-2:] == [(2, 3, "files"), (0, 0, "")]
    assert tqdm(total=1, disable=True).disable


def test_words() -> None:
    assert stage_words("measure pke") == "measuring: pke"
    assert stage_words("win rate pke") == "comparing answers of: pke"
    assert stage_words("whatever is new") == "whatever is new"
    assert [rate_words(rate) for rate in (250.0, 4.26, 0.4, 0.02)] == ["250/s", "4.3/s", "2.5 s each", "50 s each"]
    assert [clock(seconds) for seconds in (9.4, 754, 3723)] == ["0:09", "12:34", "1:02:03"]
