"""What a run says to do next: commands that exist and can be pasted."""

import shlex
from pathlib import Path

import pytest
import typer

from pkedit.cli import app
from pkedit.run.next_steps import Step, next_safeedit, next_steps
from pkedit.run.record import RecordedMetric, RecordedVerdict, RunRecord, StageRecord
from pkedit.run.safeedit.settings import SafeEditRecord, SafeEditSettings
from pkedit.settings import RunSettings

FOLDER = Path("runs/my run")


def record(
    *, stages: tuple[str, ...] = (), arms: tuple[str, ...] = (), verdict: str | None = None, **settings: object
) -> RunRecord:
    metrics = {"asr": RecordedMetric(value=0.5, n=10, low=0.25, high=0.75)}
    return RunRecord(
        settings=RunSettings(**settings),  # type: ignore[arg-type]
        stages={name: StageRecord(seconds=1, peak_memory=1) for name in stages},
        metrics=dict.fromkeys(arms, metrics),
        verdicts={} if verdict is None else {"pke": RecordedVerdict(outcome=verdict, reasons=[])},
    )


def commands(steps: list[Step]) -> list[str]:
    return [step.command for step in steps]


def test_behind_a_region_the_same_options_go_on() -> None:
    arguments = ("locate", "a model", "--neurons", "9")
    found = commands(next_steps(record(stages=("load", "locate", "causal")), FOLDER, arguments))
    assert found == [
        "pkedit edit 'a model' --neurons 9 --out 'runs/my run'",
        "pkedit run 'a model' --neurons 9 --out 'runs/my run'",
    ]
    edited = record(stages=("load", "locate", "causal", "edit pke"))
    given = ("edit", "m", "--out=x")
    assert commands(next_steps(edited, FOLDER, given)) == ["pkedit run m --out=x"]
    assert "--out 'runs/my run'" in commands(next_steps(edited, FOLDER))[0]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("safer", ["chat", "export"]),
        ("safer but over-refusing", ["chat", "export", "tune"]),
        ("damaged", ["chat", "tune"]),
        ("not shown", ["chat", "tune"]),
        (None, ["chat", "export"]),
    ],
)
def test_what_is_no_better_is_not_to_be_shipped(verdict: str | None, expected: list[str]) -> None:
    found = commands(next_steps(record(arms=("vanilla", "pke"), verdict=verdict), FOLDER))
    assert [shlex.split(command)[1] for command in found] == expected


def test_an_edit_that_was_given_is_not_in_the_folder_to_be_talked_to() -> None:
    for given in ({"delta": "delta.safetensors"}, {"adapter": "a", "engine": "vllm"}):
        found = commands(next_steps(record(arms=("vanilla", "pke"), verdict="safer", **given), FOLDER))
        assert found == ["pkedit table 'runs/my run' OTHER"]


def test_behind_a_model_that_was_only_measured() -> None:
    (found,) = commands(next_steps(record(arms=("vanilla",), model="some/model"), FOLDER))
    assert found == "pkedit run some/model --out runs/NAME"
    (found,) = commands(next_steps(record(arms=("vanilla",), model="openai:gpt-4-0613"), FOLDER))
    assert found == "pkedit table 'runs/my run' OTHER"
    (found,) = commands(next_steps(record(arms=("vanilla", "dinm")), FOLDER))
    assert "--arms vanilla,random,pke" in found


def test_behind_safeedit_the_other_method_on_the_same_cases() -> None:
    settings = SafeEditSettings(file="safeedit", method="pke", cases=3, seed=4)
    found = SafeEditRecord(
        created="", command="", settings=settings, file_sha256="", cases_in_file=9, versions={}, hardware={}
    )
    (command,) = commands(next_safeedit(found))
    assert command == "pkedit safeedit safeedit --method dinm --model smollm2 --seed 4 --cases 3"


def test_every_command_named_is_one_of_ours() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    records = [
        record(arms=("vanilla", "pke"), verdict="safer but over-refusing"),
        record(arms=("vanilla",)),
        record(arms=("vanilla",), engine="vllm"),
        record(stages=("locate",)),
    ]
    found = {command.split()[1].rstrip(",") for one in records for command in commands(next_steps(one, FOLDER))}
    assert found <= known
