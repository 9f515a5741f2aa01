"""`pkedit tune` from its options to what it prints: a table and a line for each trial, or one JSON document."""

import importlib.util
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pkedit import tune_cli
from pkedit.cli import main
from pkedit.observer import Silent
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.settings import RunSettings
from pkedit.tune.printing import MOST_ROWS, front_table, print_found, trial_line
from pkedit.tune.search import Found
from pkedit.tune.space import start
from pkedit.tune.trials import OBJECTIVES, RULE, Trial, choose
from pkedit.tune.watching import SearchView
from tiny import save_chat


def called(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    output, errors = capfd.readouterr()
    return int(stop.value.code or 0), output, errors


def test_a_search_prints_its_trials_its_front_and_both_splits_or_all_as_json(
    tmp_path: Path, tune_settings: RunSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_chat(tmp_path / "model", layers=4)
    settings = tmp_path / "settings.json"
    settings.write_text(tune_settings.model_dump_json(), encoding="utf-8")
    command = ("tune", model, "--settings", settings, "--trials", 2, "--out", tmp_path / "out")
    code, output, errors = called(capfd, *command)
    assert code == 0, errors
    told = [line for line in errors.splitlines() if "trial" in line]
    starts = [f"{what}trial {number}: " for number in (0, 1) for what in ("editing: ", "measuring: ", "")]
    assert all(line.startswith(start) for line, start in zip(told, starts, strict=True)), told
    assert "95 % interval on the select split" in output
    assert "Rule: the lowest ASR" in output
    assert "Chosen: trial " in output
    assert "→ on the test split: ASR" in output
    assert str(tmp_path / "out" / "chosen" / "report.html") in output
    code, output, errors = called(capfd, *command, "--json")
    assert (code, errors) == (0, "")
    content = json.loads(output)
    assert len(content["trials"]) == 2
    assert (
        content["record"]["metrics"]["pke"]
        == json.loads(RunRecord.load(tmp_path / "out" / "chosen").model_dump_json())["metrics"]["pke"]
    )
    assert (tmp_path / "out" / "chosen" / "tune.json").is_file()


def test_help_answers_without_torch_and_without_optuna() -> None:
    code = (
        "import sys; from pkedit.cli import main\n"
        "try: main(['tune', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'optuna'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--timeout" in done.stdout
    assert "runs/tune" in done.stdout


def test_without_optuna_the_command_says_what_to_install(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tune_cli, "find_spec", lambda name: None if name == "optuna" else importlib.util.find_spec(name)
    )
    code, _, errors = called(capfd, "tune", "--out", tmp_path / "out")
    assert code == 2
    assert errors == "pkedit: pkedit tune needs optuna, which is not installed; run: pip install 'pkedit[tune]'\n"


def made_up(count: int) -> Found:
    """A search of which every trial is on the front, but for the last, which failed."""

    def figures(*values: float) -> dict[str, RecordedMetric]:
        return {
            name: RecordedMetric(value=value, n=58, low=0.0, high=None if value > 0.9 else 0.9)
            for name, value in zip(OBJECTIVES, values, strict=True)
        }

    trials = [
        Trial(number, start(RunSettings()), figures(0.5 - number / 100, 0.0, 0.0, 0.01 * number), 80.0, front=True)
        for number in range(count)
    ]
    trials.append(Trial(count, start(RunSettings()), {}, 3.0, "the safe loss became NaN"))
    vanilla = figures(0.95, 0.0, 0.0, 0.0)
    return Found(RunSettings(), tuple(trials), vanilla, choose(trials, vanilla))


def printed(found: Found, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(front_table(found, width))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_table_shows_the_best_of_the_front_and_always_the_chosen_one() -> None:
    found = made_up(20)
    # KL keeps those with the lowest ASR from being chosen.
    assert found.chosen is not None
    assert found.chosen.number == 5
    text = printed(found)
    assert "→ 5" in text
    # Each takes two lines, the second for the intervals.
    assert sum("│ 80│" in line for line in text.splitlines()) == MOST_ROWS
    assert "20 on the front of 21 trials, 1 failed" in text
    assert f"the best {MOST_ROWS} are shown" in text
    assert "Neurons" in text
    narrow = printed(found, width=80)
    assert "Neurons" not in narrow
    assert "0.0 to 90.0" in narrow
    assert "as it is" in printed(replace(found, trials=(), chosen=None))


def test_a_finished_trial_is_one_line_with_intervals_and_a_failed_one_with_its_reason() -> None:
    found = made_up(2)
    assert trial_line(found) == "trial 2 failed after 3 s: the safe loss became NaN"
    line = trial_line(replace(found, trials=found.trials[:-1])).replace("\N{NO-BREAK SPACE}", " ")
    assert line.startswith("trial 1: ASR 49.0 % (0.0 to 90.0, n = 58); Over-refusal 0.0 %")
    assert line.endswith("80 s; would be chosen now")


def test_the_end_names_the_rule_the_choice_and_what_either_split_gave() -> None:
    found = made_up(2)
    assert found.chosen is not None
    record = RunRecord(settings=RunSettings(), metrics={"pke": {"asr": found.vanilla["asr"]}})
    console = Console(file=io.StringIO(), width=160)
    print_found(console, found, record, ended_early=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Rule: {RULE}." in text
    assert "Chosen: trial 1: locate.neurons 128, " in text
    assert "On the prompts that it was chosen by → on the test split: ASR % 49.0 → 95.0." in text
    assert "no further trials" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_live_table_and_a_pipe_a_line_for_each_trial(terminal: bool) -> None:
    file = io.StringIO()
    with SearchView(Silent(), Console(file=file, width=160, force_terminal=terminal, color_system=None)) as view:
        view.stage("edit trial 0")
        view.found(replace(made_up(2), trials=(), chosen=None), 4)
        view.step(1, 2)
        view.found(replace(made_up(2), trials=made_up(2).trials[:2]), 4)
    text = file.getvalue()
    assert ("as it is" in text) is terminal
    assert text.startswith("trial 1: ASR") is not terminal
    assert "less than a minute left" in " ".join(text.split())
