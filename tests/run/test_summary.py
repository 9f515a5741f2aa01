"""The terminal's last word, and the live line before it."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from pkedit.run.record import RecordedJudge, RecordedMetric, RecordedVerdict, RunRecord, StageRecord
from pkedit.run.summary import cost_sentence, metric_tables, print_summary
from pkedit.run.watching import Watcher
from pkedit.run.wording import judge_sentences, measured_metrics, metric_text, verdict
from pkedit.settings import RunSettings


def make_record() -> RunRecord:
    names = ("asr", "asr_bare", "over_refusal", "kl", "perplexity", "ds", "fluency")
    metrics = {name: RecordedMetric(value=0.5, n=10, low=0.25, high=0.75) for name in names}
    without_interval = RecordedMetric(value=0.5, n=1, low=None, high=None)
    return RunRecord(
        settings=RunSettings(),
        metrics={"vanilla": metrics, "pke": {**metrics, "kl": without_interval}},
        stages={"load": StageRecord(seconds=2, peak_memory=2**30), "locate": StageRecord(seconds=3, peak_memory=2**31)},
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_attack_success_never_stands_without_its_cost(width: int) -> None:
    first = metric_tables(make_record(), width)[0]
    headings = " ".join(str(column.header) for column in first.columns)
    assert all(name in headings for name in ("ASR", "Over-refusal", "KL"))


def test_every_cell_has_its_interval_and_every_value_its_n() -> None:
    output = io.StringIO()
    for table in metric_tables(make_record(), 200):
        Console(file=output, width=200).print(table)
    text = output.getvalue()
    assert "25.0 to 75.0" in text
    assert "n 10" in text
    # Where arms differ in n, each cell says its own.
    assert "n 1 " in text


def test_seconds_add_up_and_memory_is_the_peak() -> None:
    assert cost_sentence(make_record()) == "5 s in all (locate 3 s, load 2 s), peak memory 2.00 GiB."


@pytest.mark.parametrize("terminal", [True, False])
def test_stages_are_told_in_a_terminal_and_in_a_log(terminal: bool) -> None:
    output = io.StringIO()
    with Watcher(Console(file=output, force_terminal=terminal, width=100)) as watcher:
        watcher.stage("locate")
        watcher.step(1, 4)
        watcher.stage("edit pke")
        watcher.step(2, 4, "safe 0.50")
    text = output.getvalue()
    assert re.search(r"locating the region: \d+\.\d s", text)
    assert re.search(r"editing: pke: \d+\.\d s", text)
    assert terminal or "\x1b" not in text


def test_an_interrupted_stage_is_not_told_as_done() -> None:
    output = io.StringIO()

    def interrupted() -> None:
        with Watcher(Console(file=output, force_terminal=False)) as watcher:
            watcher.stage("locate")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "region: " not in output.getvalue()


def test_verdicts_judges_and_tasks_are_told_in_words() -> None:
    record = make_record()
    figure = RecordedMetric(value=0.875, n=400, low=0.839, high=0.904)
    record.metrics["pke"] |= {"asr:embedded": figure, "capability": figure, "capability:arc_easy": figure}
    record.verdicts = {"pke": RecordedVerdict(outcome="damaged", reasons=["kl of 0.200, more than 0.1"])}
    row = {"cut": 150, "accuracy": figure.model_dump()}
    record.judges = [
        RecordedJudge(name="rules", version="1", agreement={"labels": "answers", "measured": [row]}),
        RecordedJudge(name="guard:X", version="2", agreement=None),
    ]
    assert verdict(record)[0] == "Verdict on pke: damaged (KL nats of 0.200, more than 0.1)."
    told = judge_sentences(record)
    assert told[0] == "Judge rules agrees with people on 87.5 % (83.9 to 90.4, n = 400) of their first 150 characters."
    assert "guard:X" in told[1]
    assert "not been measured" in told[1]
    labels = [metric_text(name).label for name in measured_metrics(record)]
    assert labels[:3] == ["ASR %", "ASR by embedded %", "ASR bare %"]
    assert labels[-3:] == ["Capability %", "Capability arc_easy %", "DS %"]


def test_the_cost_names_the_task_that_was_done() -> None:
    record = make_record()
    for metrics in record.metrics.values():
        metrics["capability"] = RecordedMetric(value=0.5, n=10, low=0.25, high=0.75)
    assert "everyday questions answered rightly" in " ".join(verdict(record))
    sizes = record.settings.evaluate.model_copy(update={"capability": ("arc_easy",)})
    record.settings = record.settings.model_copy(update={"evaluate": sizes})
    assert "items of arc_easy answered rightly" in " ".join(verdict(record))


def test_every_arm_has_its_verdict_line(tmp_path: Path) -> None:
    record = make_record()
    record.metrics["random"] = record.metrics["pke"]
    record.verdicts = {
        "random": RecordedVerdict(outcome="not shown", reasons=["asr has not been shown to fall"]),
        "pke": RecordedVerdict(outcome="safer", reasons=["attack success fell"]),
    }
    output = io.StringIO()
    print_summary(Console(file=output, width=200), record, tmp_path)
    assert output.getvalue().count("Verdict on pke: safer") == 1
    assert output.getvalue().count("Verdict on random: not shown") == 1
