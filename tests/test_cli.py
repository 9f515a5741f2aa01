"""The command line on a tiny model folder: a whole run, its resumption, and one line for every mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkedit.cli import main
from pkedit.errors import PkeditError
from pkedit.run.record import RunRecord
from tiny import save_chat

SETTINGS: dict[str, Any] = {
    "pairs": 6,
    "demonstrations": 6,
    "sampled_tokens": 4,
    "locate": {"pairs": 4, "demonstrations": 4, "neurons": 3, "tokens": 4, "random_regions": 2, "causal_pairs": 2},
    "edit": {"steps": 2, "pairs_per_step": 2, "demonstrations_per_step": 2, "safe_tokens": 4, "harmless_tokens": 4},
    "evaluate": {
        "seen": 2,
        "cross": 2,
        "unseen": 3,
        "harmless": 3,
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


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Calls the command line; gives the exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        output, errors = capfd.readouterr()
        return int(stop.value.code or 0), output, errors

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, settings: Path) -> Path:
    """A folder in which every stage with PKE and a random region has run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.raises(SystemExit) as stop:
        main(["run", str(model), "--settings", str(settings), "--arms", "vanilla,random,pke", "--out", str(folder)])
    assert not stop.value.code
    return folder


def assert_one_line(result: tuple[int, str, str], *fragments: str) -> None:
    code, _, errors = result
    assert code == 2
    assert errors.startswith("pkedit: ")
    assert errors.count("\n") == 1
    for fragment in fragments:
        assert fragment in errors


@pytest.mark.parametrize(
    "command",
    [
        *("", "run", "bench", "check", "locate", "edit", "evaluate", "export", "report", "table", "judge-agreement"),
        "safeedit",
    ],
)
def test_help_answers_without_torch(command: str) -> None:
    code = (
        "import sys; from pkedit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: pkedit" in done.stdout


def test_version_is_printed(invoke: Invoke) -> None:
    code, output, _ = invoke("--version")
    assert code == 0
    assert output.startswith("pkedit ")


def test_a_run_leaves_every_file_and_says_where(finished: Path, invoke: Invoke, model: Path, settings: Path) -> None:
    code, output, errors = invoke(
        "run", model, "--settings", settings, "--arms", "vanilla,random,pke", "--out", finished
    )
    assert code == 0
    assert errors == ""
    for name in ("run.json", "region.json", "delta.safetensors", "responses.jsonl", "report.html"):
        assert (finished / name).is_file()
        assert str(finished / name) in output
    assert f"pkedit export {finished} --as full" in output
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
    tmp_path: Path, invoke: Invoke, model: Path, settings: Path
) -> None:
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
    for command, stage in (("locate", "causal"), ("edit", "edit pke"), ("run", "capability pke")):
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
    code, output, _ = invoke("evaluate", model, "--settings", settings, "--out", folder)
    assert code == 0
    assert output.index("loading the model:") < output.index("measuring: vanilla …")
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
    assert_one_line(
        invoke("run", model, "--settings", settings, "--out", finished, "--neurons", 2), str(finished), "locate"
    )
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
        (KeyboardInterrupt(), 130, "same command"),
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


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("pkedit.run.pipeline.run", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["run", "--out", str(tmp_path / "run")])
