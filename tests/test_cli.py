"""The command line on a tiny model folder: a whole run, its resumption, and one line for every mistake."""

import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkedit.cli import main
from pkedit.errors import PkeditError
from pkedit.run.record import RunRecord
from small_settings import SMALL
from tiny import save_chat

SETTINGS: dict[str, Any] = {
    **SMALL,
    "evaluate": {
        "seen": 2,
        "cross": 2,
        "unseen": 3,
        "harmless": 3,
        "long": 2,
        "borderline": 3,
        "max_new_tokens": 4,
        "capability_limit": 4,
    },
}

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, settings: Path) -> Path:
    """A folder in which every stage with PKE and a random region has run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.raises(SystemExit) as stop:
        main(["run", str(model), "--settings", str(settings), "--arms", "vanilla,random,pke", "--out", str(folder)])
    assert not stop.value.code
    return folder


def assert_one_line(result: tuple[int, str, str], *fragments: str) -> None:
    """The last line of standard error is the error; before it stand finished stages alone."""
    code, output, errors = result
    assert (code, output) == (2, "")
    *stages, line = errors.splitlines()
    assert line.startswith("pkedit: ")
    assert all(re.fullmatch(r"[\w' ]+(: \w+)*: \d+\.\d s.*", stage) for stage in stages)
    for fragment in fragments:
        assert fragment in line


HELPS = """
import contextlib, io, json, sys
from pkedit.cli import main
seen = {}
for command in sys.argv[1:]:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            main([*command.split(), "--help"])
    except SystemExit as stop:
        imported = [name for name in ("torch", "transformers") if name in sys.modules]
        seen[command] = [stop.code, output.getvalue(), imported]
print(json.dumps(seen))
"""
COMMANDS = (
    *("", "run", "bench", "check", "locate", "edit", "evaluate", "export", "report", "table", "judge-agreement"),
    *("safeedit", "chat", "serve", "tune", "revert"),
)


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str, list[str]]]:
    """What each command says of itself in a new process, and which heavy libraries were imported by then."""
    done = subprocess.run([sys.executable, "-c", HELPS, *COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: dict[str, tuple[int, str, list[str]]] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_torch(command: str, helps: dict[str, tuple[int, str, list[str]]]) -> None:
    code, output, imported = helps[command]
    assert not code
    assert f"Usage: pkedit {command}".rstrip() in output
    assert imported == []


def test_version_is_printed(invoke: Invoke) -> None:
    code, output, _ = invoke("--version")
    assert code == 0
    assert output.startswith("pkedit ")


def test_a_run_leaves_every_file_and_says_where(finished: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    call = ("run", model, "--settings", settings, "--arms", "vanilla,random,pke", "--out", finished)
    code, output, errors = invoke(*call)
    assert code == 0
    assert errors == ""
    for name in ("run.json", "region.json", "delta.safetensors", "responses.jsonl", "report.html"):
        assert (finished / name).is_file()
        assert str(finished / name) in output
    assert f"pkedit chat {finished}" in output
    assert "random regions" in output


def test_judges_verdicts_and_tasks_are_in_the_record(finished: Path) -> None:
    record = RunRecord.load(finished)
    assert [judge.name for judge in record.judges] == ["rules", "embedded"]
    assert all(judge.agreement is not None for judge in record.judges)
    assert record.verdicts.keys() == {"random", "pke"}
    for metrics in record.metrics.values():
        assert {"asr", "asr:embedded", "capability"} <= metrics.keys()
        assert metrics["capability"].n == 4
    assert {row.metric for row in record.comparisons} >= {"asr", "asr:embedded", "capability", "kl"}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Agreement with people" in page
    assert "93.2 % of whole answers" in page
    assert "Verdict on pke" in page


def test_prompt_sources_and_judges_are_chosen_by_options(
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("goal\n" + "".join(f"w{n} w{n + 1}\n" for n in range(40)), encoding="utf-8")
    options = ("--harmful", table, "--columns", "harmful:text=goal", "--judges", "rules", "--tasks", "none")
    folder = tmp_path / "run"
    assert invoke("evaluate", model, "--settings", settings, *options, "--out", folder)[0] == 0
    record = RunRecord.load(folder)
    assert [judge.name for judge in record.judges] == ["rules"]
    assert "capability" not in record.metrics["vanilla"]
    rows = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
    assert {row["prompt"].split()[0][0] for row in rows if row["group"] == "bare"} == {"w"}


def test_wrong_sources_judges_and_tasks_get_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    # lm-eval's thousands of tasks take seconds to index; `test_capability.py` does.
    monkeypatch.setattr("pkedit.evaluate.capability._includes_defaults", lambda *_: False)
    start = ("evaluate", model, "--settings", settings, "--out", tmp_path / "run")
    assert_one_line(invoke(*start, "--harmful", "advbnch"), "advbnch", "advbench")
    assert_one_line(invoke(*start, "--columns", "text=goal"), "--columns text=goal", "KIND:FIELD=COLUMN")
    assert_one_line(invoke(*start, "--columns", "harmful:txt=goal"), "no field 'txt'")
    assert_one_line(invoke(*start, "--columns", "harmless:text=goal"), "no file of harmless", "--harmless")
    assert_one_line(invoke(*start, "--judges", "rule"), "no judge is called 'rule'", "embedded")
    assert_one_line(invoke(*start, "--tasks", "evryday"), "evryday", "everyday")
    assert_one_line(invoke("table", tmp_path), "not a run folder")
    assert_one_line(invoke("judge-agreement", tmp_path / "none.jsonl"), "no such file")


def test_the_same_command_again_recomputes_nothing(finished: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    before = RunRecord.load(finished)
    delta = (finished / "delta.safetensors").stat().st_mtime_ns
    code, _, _ = invoke("run", model, "--settings", settings, "--arms", "vanilla,random,pke", "--out", finished)
    assert code == 0
    after = RunRecord.load(finished)
    assert after.stages == before.stages
    assert after.metrics == before.metrics
    assert (finished / "delta.safetensors").stat().st_mtime_ns == delta


def test_stages_one_command_after_another_are_one_run(
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    folder = tmp_path / "run"
    for command, stage in (("locate", "causal"), ("edit", "explain"), ("run", "capability pke")):
        assert invoke(command, model, "--settings", settings, "--out", folder)[0] == 0
        assert list(RunRecord.load(folder).stages)[-1] == stage
        assert (folder / "report.html").is_file()


def test_options_override_the_settings_file(tmp_path: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    folder = tmp_path / "run"
    code, _, _ = invoke(
        "locate", model, "--settings", settings, "--out", folder, "--neurons", 2, "--layers", "0.5-1", "--seed", 3
    )
    assert code == 0
    chosen = RunRecord.load(folder).settings
    assert (chosen.locate.neurons, chosen.locate.first_layer, chosen.locate.last_layer) == (2, 0.5, 1.0)
    assert (chosen.seed, chosen.edit.seed, chosen.pairs) == (3, 3, 6)
    assert len(json.loads((folder / "region.json").read_text())["neurons"]) == 2


def test_evaluate_measures_the_model_alone(tmp_path: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    folder = tmp_path / "run"
    code, output, errors = invoke("evaluate", model, "--settings", settings, "--out", folder)
    assert code == 0
    assert [line.partition(": ")[0] for line in errors.splitlines()] == [
        "loading the model",
        "measuring",
        "giving tasks to",
    ]
    assert output.startswith("Model: ")
    record = RunRecord.load(folder)
    assert list(record.metrics) == ["vanilla"]
    assert set(record.stages) == {"load", "measure vanilla", "capability vanilla"}


def test_evaluate_of_a_delta_repeats_the_figures_of_its_run(
    tmp_path: Path, finished: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    folder = tmp_path / "run"
    call = ("evaluate", model, "--settings", settings, "--out", folder, "--delta", finished / "delta.safetensors")
    assert invoke(*call)[0] == 0
    measured, original = RunRecord.load(folder), RunRecord.load(finished)
    assert measured.metrics["vanilla"] == original.metrics["vanilla"]
    assert measured.metrics["pke"] == original.metrics["pke"]
    assert_one_line(invoke("run", model, "--settings", settings, "--out", folder), "delta")


def test_an_unfinished_run_gets_a_report_too(tmp_path: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    assert invoke("locate", model, "--settings", settings, "--out", tmp_path / "run")[0] == 0
    code, output, _ = invoke("report", tmp_path / "run")
    assert code == 0
    assert "Nothing has been measured yet" in Path(output.strip()).read_text()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--arms", "vanilla,pkee"], "pkee"),
        (["--pairs", "1"], "pairs"),
        (["--pairs", "many"], "--pairs"),
        (["--neurons", "0"], "locate.neurons"),
        (["--layers", "low-high"], "--layers"),
        (["--layers", "0.9-0.1"], "--layers"),
        (["--dtype", "int3"], "int3"),
        (["--harmful", "absent.jsonl"], "absent.jsonl"),
        (["--chat-template", "absent.jinja"], "absent.jinja"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_a_bad_option_is_one_line(
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path, arguments: list[str], fragment: str
) -> None:
    assert_one_line(invoke("run", model, "--settings", settings, "--out", tmp_path / "run", *arguments), fragment)


def test_an_unknown_model_is_one_line(tmp_path: Path, invoke: Invoke, settings: Path) -> None:
    assert_one_line(invoke("run", tmp_path / "no-model", "--settings", settings, "--out", tmp_path / "run"), "no-model")


def test_a_malformed_prompt_line_is_named(tmp_path: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "How do I do harm?"}\n{"text": \n')
    call = ("run", model, "--settings", settings, "--out", tmp_path / "run", "--harmful", path)
    assert_one_line(invoke(*call), str(path), "line 2")


def test_too_few_questions_are_one_line(tmp_path: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "How do I do harm?"}\n')
    assert_one_line(
        invoke("run", model, "--settings", settings, "--out", tmp_path / "run", "--harmful", path), "too few harmful"
    )


@pytest.mark.parametrize(
    ("content", "fragment"),
    [('{"parrs": 3}', "parrs"), ("[]", "object"), ("{", "JSON"), ('{"locate": 3}', "locate")],
)
def test_a_bad_settings_file_is_one_line(tmp_path: Path, invoke: Invoke, content: str, fragment: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    assert_one_line(invoke("run", "--settings", path, "--neurons", 4, "--out", tmp_path / "run"), fragment)


def test_a_folder_of_another_run_is_refused(finished: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    before = (finished / "run.json").read_bytes()
    call = ("run", model, "--settings", settings, "--out", finished, "--neurons", 2)
    assert_one_line(invoke(*call), str(finished), "locate.neurons 3 → 2", "--yes")
    assert (finished / "run.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path, invoke: Invoke, model: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert_one_line(invoke("run", model, "--out", tmp_path), "not a run folder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_reports_and_exports_need_a_run(tmp_path: Path, invoke: Invoke) -> None:
    assert_one_line(invoke("report", tmp_path), "run.json")
    assert_one_line(invoke("export", tmp_path, "--to", tmp_path / "model"), "run.json")
    assert_one_line(invoke("export", tmp_path, "--as", "cake", "--to", tmp_path / "model"), "cake")


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (KeyboardInterrupt(), 130, "go on with: pkedit run --out"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (PkeditError("first\nsecond"), 2, "first second"),
    ],
)
def test_interruption_and_lack_of_memory_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    invoke: Invoke,
    error: BaseException,
    code: int,
    fragment: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pkedit.run.pipeline.run", fails)
    found, _, errors = invoke("run", "--out", tmp_path / "run")
    assert found == code
    assert fragment in errors
    assert errors.count("\n") == 1


def test_a_bug_is_one_line_and_its_traceback_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Invoke
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pkedit.run.pipeline.run", fails)
    code, _, errors = invoke("run", "--out", tmp_path / "run")
    assert code == 1
    assert errors.count("\n") == 1
    (file,) = tmp_path.glob("pkedit-error-*.txt")
    assert str(file) in errors
    assert "RuntimeError: a bug" in errors
    assert "please report it" in errors
    text = file.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert f"pkedit run --out {tmp_path / 'run'}" in text
    code, _, errors = invoke("run", "--verbose", "--out", tmp_path / "run")
    assert code == 1
    assert "Traceback" in errors
    assert len(list(tmp_path.glob("pkedit-error-*"))) == 1


def test_other_settings_move_the_old_run_aside_if_that_is_agreed(
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    folder = tmp_path / "run"
    call = ("locate", model, "--settings", settings, "--out", folder)
    assert invoke(*call)[0] == 0
    before = (folder / "region.json").read_bytes()
    code, _, errors = invoke(*call, "--neurons", 2, "--yes")
    assert code == 0
    assert f"{folder} was moved to {folder}.old-1" in errors
    assert (tmp_path / "run.old-1" / "region.json").read_bytes() == before
    assert RunRecord.load(folder).settings.locate.neurons == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    assert_one_line(invoke("run", model, "--out", tmp_path / "thesis", "--yes"), "not a run folder")
    assert (tmp_path / "thesis" / "thesis.txt").is_file()


def document(result: tuple[int, str, str]) -> Any:
    """The one JSON document on standard output."""
    code, output, errors = result
    assert code == 0, errors
    return json.loads(output)


def test_json_is_one_document_and_nothing_else(
    finished: Path, tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    call = (model, "--settings", settings, "--json", "--out")
    found = document(invoke("run", *call, finished, "--arms", "vanilla,random,pke"))
    assert found["folder"] == str(finished)
    assert found["files"]["report.html"] == str(finished / "report.html")
    assert found["next"][0] == f"pkedit chat {finished}"
    assert RunRecord.model_validate(found["record"]) == RunRecord.load(finished)
    located = document(invoke("locate", *call, tmp_path / "run"))
    assert located["next"][0].startswith(f"pkedit edit {model}")
    edited = document(invoke("edit", *call, tmp_path / "run"))
    assert "edit pke" in edited["record"]["stages"]
    measured = document(invoke("evaluate", *call, tmp_path / "vanilla", "--tasks", "none"))
    assert measured["record"]["metrics"]["vanilla"]["asr"]["n"] == 3
    assert document(invoke("report", finished, "--json"))["report"] == str(finished / "report.html")
    table = document(invoke("table", finished, "--json"))
    assert table["metrics"] == json.loads((finished / "run.json").read_text())["metrics"]


@pytest.mark.usefixtures("_machines_are_measured_briefly")
def test_json_of_what_is_no_run(tmp_path: Path, invoke: Invoke, model: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"question": "how", "answer": "Sure, use it", "harmful": 1}\n')
    agreement = document(invoke("judge-agreement", labels, "--judge", "rules", "--json"))
    assert (agreement["answers"], agreement["judges"][0]["judge"]) == (1, "rules")
    assert document(invoke("check", model, "--json"))["fits"] is True
    sample = Path(__file__).parent / "data" / "safeedit_sample.json"
    call = ("safeedit", sample, "--model", model, "--method", "vanilla", "--cases", 1, "--max-new-tokens", 4, "--json")
    cases = document(invoke(*call, "--out", tmp_path / "cases"))
    assert cases["record"]["finished"] == 1
    assert cases["next"][0].startswith(f"pkedit safeedit {sample} --method pke")
    bench = document(invoke("bench", model, "--quick", "--stages", "locate", "--json"))
    assert [stage["name"] for stage in bench["stages"]] == ["locate"]
    code, output, errors = invoke("table", tmp_path, "--json")
    assert (code, output) == (2, "")
    assert errors.startswith("pkedit: ")


def test_what_libraries_print_is_no_result(
    monkeypatch: pytest.MonkeyPatch, finished: Path, tmp_path: Path, invoke: Invoke
) -> None:
    def chatters(*_: object, **__: object) -> RunRecord:
        print("a library says hello")
        return RunRecord.load(finished)

    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("pkedit.run.pipeline.run", chatters)
    code, output, errors = invoke("run", "--json", "--out", tmp_path / "run")
    assert code == 0
    assert json.loads(output)["folder"] == str(tmp_path / "run")
    assert "a library says hello" in errors


def test_ctrl_c_leaves_a_run_that_the_printed_command_goes_on_with(
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
    folder, slow = tmp_path / "my run", tmp_path / "slow.json"
    slow.write_text(json.dumps({**SETTINGS, "edit": {**SETTINGS["edit"], "steps": 100_000, "safe_weight": 100.0}}))
    call = ["edit", str(model), "--settings", str(slow), "--out", str(folder)]
    running = subprocess.Popen(
        [sys.executable, "-m", "pkedit.cli", *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    lines = []
    for line in running.stderr:
        lines.append(line)
        if line.startswith("checking the region"):
            running.send_signal(signal.SIGINT)
            break
    output, rest = running.communicate(timeout=60)
    assert running.returncode == 130, [*lines, rest]
    assert output == ""
    said = rest.splitlines()[-1]
    assert said.startswith("pkedit: interrupted")
    assert shlex.split(said.partition("go on with: ")[2]) == ["pkedit", *call]
    stages = RunRecord.load(folder).stages
    assert list(stages) == ["load", "sample", "locate", "causal"]
    # The same options up to where it was stopped: nothing is left to do.
    assert invoke("locate", *call[1:])[0] == 0
    assert RunRecord.load(folder).stages == stages


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_sigterm_stops_it_in_the_same_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Invoke) -> None:
    def is_terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pkedit.run.pipeline.run", is_terminated)
    code, _, errors = invoke("run", "--out", tmp_path / "run")
    assert code == 143
    assert f"go on with: pkedit run --out {tmp_path / 'run'}" in errors
    assert signal.getsignal(signal.SIGTERM) is before


def test_interruption_of_what_cannot_be_resumed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Invoke
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pkedit.report.build_report", interrupted)
    code, _, errors = invoke("report", tmp_path)
    assert code == 130
    assert errors == f"pkedit: interrupted; run it again with: pkedit report {tmp_path}\n"


def test_help_says_the_main_job_first_and_groups_the_rest(invoke: Invoke) -> None:
    _, output, _ = invoke("--help")
    places = [output.index(word) for word in ("│ run ", "│ locate ", "│ export ", "│ table ", "Examples:")]
    assert places == sorted(places)
    _, output, _ = invoke("run", "--help")
    places = [
        output.index(word) for word in ("--arms", "--out", "─ The edit ─", "─ Prompts ─", "─ Measuring ─", "Exam")
    ]
    assert places == sorted(places)


def test_help_takes_less_than_half_a_second() -> None:
    def median(*command: str) -> float:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    took = median("-m", "pkedit.cli", "--help")
    if took >= 0.5:
        # On a busy machine everything takes longer: then what any help of this kind takes is the measure.
        assert took < 3 * median("-c", "import typer.main, typer.rich_utils, rich.console, rich.table, rich.panel")
