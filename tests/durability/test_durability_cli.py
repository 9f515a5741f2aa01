"""`pkedit durability` from its options to its tables, its JSON and the report."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pkedit.durability.names import NAMES
from pkedit.durability.printing import metric_table, print_durability
from pkedit.durability.record import Cell, DurabilityRecord, DurabilitySettings, Row
from pkedit.durability.sentences import notes, worst
from pkedit.durability.watching import DurabilityView
from pkedit.errors import RunFolderError
from pkedit.observer import Silent
from pkedit.report import build_report
from pkedit.run.record import RecordedMetric

Invoke = Callable[..., tuple[int, str, str]]


def made_up() -> DurabilityRecord:
    def metric(value: float) -> RecordedMetric:
        return RecordedMetric(value=value, n=24, low=max(value - 0.1, 0.0), high=value + 0.1)

    def row(name: str, **arms: Cell) -> Row:
        return Row(label=NAMES[name].label, source=NAMES[name].source, arms=arms)

    def cell(asr: float, **more: float) -> Cell:
        values = {"asr": asr, "over_refusal": 0.05, **more}
        return Cell(metrics={name: metric(value) for name, value in values.items()}, seconds=12.0)

    rows = {
        "as-is": row("as-is", vanilla=cell(0.75), pke=cell(0.08)),
        "temperature-1.0": row("temperature-1.0", vanilla=cell(0.8), pke=cell(0.3, asr_mean=0.125)),
        "merged-0.5": row("merged-0.5", vanilla=Cell(note="not measured: <b>"), pke=cell(0.4)),
        "4-bit": row("4-bit", vanilla=cell(0.7).model_copy(update={"simulated": True}), pke=cell(0.1)),
    }
    record = DurabilityRecord(model="m", settings=DurabilitySettings(), rows=rows)
    return record.model_copy(update={"worst": worst(record), "notes": notes(record)})


def test_the_command_prints_tables_or_json_and_writes_the_report(folder: Path, invoke: Invoke) -> None:
    command = ("durability", folder, "--conditions", "as-is,bf16", "--prompts", 3, "--arms", "pke,vanilla")
    code, output, errors = invoke(*command)
    assert code == 0, errors
    assert "ASR % ↓: harmful answers to unseen questions in unseen attacks" in output
    assert "cast to bfloat16" in output
    assert str(folder / "durability.json") in output
    assert "cast to bfloat16, pke: ASR " in errors
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="durability">' in page
    code, output, errors = invoke(*command, "--json")
    assert (code, errors) == (0, "")
    content = json.loads(output)
    assert content["rows"] == json.loads((folder / "durability.json").read_text(encoding="utf-8"))["rows"]
    assert list(content["rows"]["bf16"]["arms"]) == ["vanilla", "pke"]


def test_all_is_every_condition_and_goes_with_no_choice(folder: Path, invoke: Invoke) -> None:
    code, _, errors = invoke("durability", folder, "--all", "--conditions", "as-is")
    assert code == 2
    assert errors.startswith("pkedit: --all is every condition")
    code, _, errors = invoke("durability", folder, "--conditions", "frozen")
    assert code == 2
    assert "no condition is called frozen" in errors


def test_help_names_every_condition_and_the_costly_ones_without_torch() -> None:
    code = (
        "import sys; from pkedit.cli import main\n"
        "try: main(['durability', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"COLUMNS": "400"}
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.replace("│", " ").split())
    assert ", ".join(NAMES) in text
    assert "(tuned-200, tuned-1000, suffix-attack)" in text


def test_tables_have_a_row_for_each_condition_and_say_what_was_not_measured(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    print_durability(made_up(), tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "8.0 (0.0 to 18.0)" in text
    assert "4-bit weights, simulated" in rows
    assert "30.0 (20.0 to 40.0) ⌀ 12.5" in text
    assert "–" in rows["merged, 0.5 of edit"]
    assert "pke: 8.0 % of attacks answered harmfully as it is; at most 40.0 % (merged, 0.5 of edit)" in text
    assert "merged, 0.5 of edit (vanilla): not measured: <b>" in text


def test_the_report_has_the_table_and_escapes_its_text(folder: Path) -> None:
    (folder / "durability.json").write_text(made_up().model_dump_json(), encoding="utf-8")
    page = build_report(folder).read_text(encoding="utf-8")
    section = page[page.index('<section id="durability">') :]
    section = section[: section.index("</section>")]
    assert "mean over answers 12.5" in section
    assert "not measured: &lt;b&gt;" in section
    assert section.count("<table>") == 2
    assert "4-bit weights, simulated" in section
    assert NAMES["merged-0.5"].source in section
    assert section.count("n 24") == 2
    assert "at most 40.0 %" in section
    (folder / "durability.json").write_text('{"schema_version": 1}', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"durability\.json"):
        build_report(folder)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_live_table_and_a_pipe_a_line_for_each_cell(terminal: bool) -> None:
    file = io.StringIO()
    with DurabilityView(Silent(), Console(file=file, width=120, force_terminal=terminal, color_system=None)) as view:
        view.stage("measure pke")
        view.step(1, 2)
        view.told(made_up(), "merged-0.5", "pke", 8)
        view.told(made_up(), "merged-0.5", "vanilla", 8)
    text = file.getvalue()
    assert ("8 of 8 cells" in text) is terminal
    assert ("merged, 0.5 of edit, pke: ASR 40.0 %, Over-refusal 5.0 %; 12 s" in text) is not terminal
    assert ("merged, 0.5 of edit, vanilla: no figures; 0 s; not measured: <b>" in text) is not terminal


def test_a_metric_that_no_arm_has_leaves_an_empty_table() -> None:
    assert metric_table(made_up(), "asr_bare").row_count == 0
