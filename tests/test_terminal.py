"""The two streams: one JSON document, questions that only a person in a terminal is asked, characters of any kind."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pkedit.errors import NotAgreedError, OtherRunError, RunFolderError
from pkedit.models.remote_usage import Price
from pkedit.run.folder import changes, move_aside
from pkedit.run.record import RecordedMetric
from pkedit.run.spending import Spending
from pkedit.running import watched
from pkedit.terminal import agreed, print_json


class Terminal(io.StringIO):
    """A stream with a person at it."""

    def isatty(self) -> bool:
        return True


def test_json_has_no_nan_and_no_character_that_a_terminal_may_lack(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"value": float("nan"), "path": Path("a/b"), "text": "≥ 5 \udcff"})
    output = capsys.readouterr().out
    assert output.isascii()
    assert json.loads(output) == {"value": None, "path": "a/b", "text": "≥ 5 \udcff"}
    print_json({"perplexity": RecordedMetric(value=float("inf"), n=1, low=None, high=float("nan"))})
    found = json.loads(capsys.readouterr().out)
    assert found == {"perplexity": {"value": None, "n": 1, "low": None, "high": None}}


@pytest.mark.parametrize(("answer", "expected"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool) -> None:
    asked = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", asked)
    assert agreed("Go on?", yes=False) is expected
    assert "Go on?" in asked.getvalue()


def test_nobody_is_asked_in_a_pipe_or_after_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(*_: object, **__: object) -> bool:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(typer, "confirm", asks)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert agreed("Go on?", yes=False) is False
    assert agreed("Go on?", yes=True) is True


def test_a_run_of_other_settings_stays_where_it_is_unless_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    calls = []

    def work(_: object) -> str:
        calls.append(folder.exists())
        if folder.exists():
            raise OtherRunError(folder, ["seed 0 → 1"])
        return "done"

    questions = []
    for answer in (False, True):
        monkeypatch.setattr(
            "pkedit.running.agreed", lambda question, yes, answer=answer: questions.append(question) or answer
        )
        if answer:
            assert watched(work, out=folder) == "done"
        else:
            with pytest.raises(OtherRunError, match="--yes"):
                watched(work, out=folder)
            assert folder.is_dir()
    assert (
        questions
        == [f"{folder} belongs to a run with other settings (seed 0 → 1). Move that run aside and start anew?"] * 2
    )
    assert calls == [True, True, False]
    assert (tmp_path / "run.old-1").is_dir()


def test_what_a_run_costs_anew_is_asked_about_once_the_old_one_is_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def work(_: object) -> str:
        if folder.exists():
            raise OtherRunError(folder, ["seed 0 → 1"])
        raise AssertionError("nobody agreed to pay")

    def bill() -> list[Spending]:
        # Everything was paid for in the folder that is moved aside.
        return [] if folder.exists() else [Spending("judge", 100, 10**6, 0, Price(24.0, 24.0), known=True)]

    monkeypatch.setattr("pkedit.running.agreed", lambda question, yes: "aside" in question)
    with pytest.raises(NotAgreedError, match="24"):
        watched(work, out=folder, bill=bill)


def test_what_is_moved_aside_never_replaces_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        assert move_aside(tmp_path / "run") == tmp_path / f"run.old-{number}"
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(RunFolderError, match="working folder"):
        move_aside(tmp_path / "run")


def test_differences_name_the_setting_and_both_values() -> None:
    old = {"seed": 0, "locate": {"neurons": 128, "tokens": 16}, "columns": {}}
    new = {"seed": 0, "locate": {"neurons": 64, "tokens": 16}, "columns": {"harmful": "text=goal"}}
    assert changes(old, new) == ['columns {} → {"harmful": "text=goal"}', "locate.neurons 128 → 64"]
    assert str(OtherRunError(Path("run"), [str(number) for number in range(6)])).startswith(
        "run belongs to a run with other settings (0, 1, 2, 3, and 2 more); "
    )


def test_a_stream_that_lacks_characters_shows_escapes() -> None:
    code = "from pkedit.terminal import unbreakable_streams as go; go(); print('≥ \\udcff')"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert done.stdout.strip() == b"\\u2265 \\udcff"
