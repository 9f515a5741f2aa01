"""A run folder keeps any text, and the command that made it."""

import sys
from pathlib import Path

import pytest

from pkedit.run.folder import RunFolder
from pkedit.run.record import StageRecord, new_record
from pkedit.settings import RunSettings


def test_lines_come_back_as_they_were_written_whatever_characters_are_in_them(tmp_path: Path) -> None:
    rows = [
        {"answer": text} for text in ("one\u2028two\u0085three", "half \ud83d of a pair", "whole 😀", "\\ud83d", "")
    ]
    with RunFolder.open(tmp_path / "run", RunSettings()) as folder:
        folder.write_lines(tmp_path / "lines.jsonl", rows)
        assert folder.read_lines(tmp_path / "lines.jsonl") == rows


def test_the_command_is_that_of_the_last_call_which_finished_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for typed, stage in (("locate", "locate"), ("run", "measure pke"), ("locate", None)):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/pkedit", typed, "a model"])
        with RunFolder.open(tmp_path / "run", RunSettings()) as folder:
            if stage is not None:
                folder.record.stages[stage] = StageRecord(seconds=1.0, peak_memory=1)
                folder.finish(stage)
            command = folder.record.command
    assert command == "pkedit run 'a model'"


def test_from_python_there_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"])
    assert new_record(RunSettings()).command == ""
