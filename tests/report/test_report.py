"""The report is one offline page made from files alone, and shows hostile answers as text."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pkedit.errors import RunFolderError
from pkedit.report import build_report
from pkedit.run.record import EditRecord, RecordedComparison, RecordedMetric, RunRecord, StageRecord
from pkedit.settings import RunSettings

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Outline(HTMLParser):
    """Checks nesting and collects tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def metric(value: float, n: int = 72, *, half: float = 0.05) -> RecordedMetric:
    return RecordedMetric(value=value, n=n, low=value - half, high=value + half)


def response(arm: str, group: str, identifier: str, judgement: str, answer: str) -> dict[str, Any]:
    return {
        "arm": arm,
        "group": group,
        "prompt_id": identifier,
        "category": "test",
        "attack": None,
        "prompt": f"prompt {identifier} {EVIL}",
        "answer": answer,
        "verdicts": [{"judge": "rules", "version": "1", "judgement": judgement, "reason": "because"}],
    }


def make_run(folder: Path, **changes: Any) -> Path:
    """A run folder as if vanilla, a random region and PKE had been measured."""
    record = RunRecord(
        settings=RunSettings(model=f"someone/{EVIL}"),
        command="pkedit run",
        versions={"pkedit": "0.1.0"},
        hardware={"cores": 2},
        stages={"measure pke": StageRecord(seconds=3, peak_memory=2**30)},
        metrics={
            arm: {"asr": metric(asr), "over_refusal": metric(refusal, 96), "kl": metric(kl, 96, half=0.01)}
            for arm, asr, refusal, kl in (
                ("vanilla", 0.9, 0.05, 0.0),
                ("random", 0.3, 0.2, 0.2),
                ("pke", 0.1, 0.1, 0.1),
            )
        },
        comparisons=[
            RecordedComparison(
                metric="asr", arm="pke", against="vanilla", difference=metric(-0.8), p_value=0.00001
            ),
            RecordedComparison(metric="asr", arm="random", against="pke", difference=metric(0.2), p_value=0.01),
        ],
        edits={
            "pke": EditRecord(
                neurons=2,
                share_of_neurons=0.01,
                parameters=64,
                layers=[1],
                stopped_early=False,
                history=[{"step": step, "safe": 1 / (step + 1), "unsafe": 0.0, "harmless": 0.1} for step in range(4)],
            )
        },
        causal={
            "effect": 0.4, "harmless_effect": 0.1, "random": [0.1, 0.2], "random_harmless": [0.0], "beyond_all": True,
        },
    )  # fmt: skip
    record.model_copy(update=changes).save(folder)
    neurons = [{"layer": 1, "index": index, "score": 0.9, "ranks": {"pathway": 1.0}, "values": {}} for index in (3, 5)]
    region = {"neurons": neurons, "signals": {"pathway": 1.0}, "layer_totals": {"pathway": [0.0, 1.0, 0.5]}}
    (folder / "region.json").write_text(json.dumps(region))
    rows = [
        response(arm, group, identifier, judgement, answer)
        for group, identifier in (("dg_other_aq", "h1"), ("harmless", "s1"))
        for arm, judgement, answer in (("vanilla", "harmful", f"an answer {EVIL}"), ("pke", "refused", "\u2028no"))
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "responses.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_the_page_is_well_formed_and_complete(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    assert page.startswith("<!doctype html>")
    assert sum(tag == "svg" for tag, _ in outline.tags) == 3
    for heading in ("Arms", "Safety against usefulness", "Paired comparisons", "The region", "Training", "Answers"):
        assert heading in page


def test_answers_prompts_and_names_are_text_not_markup(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert "an answer &lt;script&gt;alert(1)" in page


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert not {"src", "href", "srcset", "action"} & {name for _, attributes in outline.tags for name in attributes}
    assert not re.search(r"https?://|url\(|@import", page)


def test_harmful_answers_are_folded(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    assert "<details open" not in page
    before = page[: page.index("prompt h1")]
    assert before.count("<details") - before.count("</details>") == 2


def test_figures_come_with_interval_and_n_and_costs_beside_gains(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "90.0 % (85.0 to 95.0, n = 72) before, 10.0 % (5.0 to 15.0, n = 72)" in page
    assert "everyday prompts refused 5.0 % (0.0 to 10.0, n = 96) before" in page
    assert "p &lt; 0.0001" in page
    assert "leave more attacks through" in page


def test_a_region_no_better_than_random_is_said_to_be_so(tmp_path: Path) -> None:
    check = {"effect": 0.1, "harmless_effect": 0.1, "random": [0.0, 0.2], "random_harmless": [], "beyond_all": False}
    page = build_report(make_run(tmp_path, causal=check)).read_text(encoding="utf-8")
    assert "no better than random: only 1 of 2" in page


def test_differences_that_may_be_zero_are_not_called_effects(tmp_path: Path) -> None:
    rows = [
        RecordedComparison(metric="asr", arm=arm, against=against, difference=metric(0.01, half=0.1), p_value=0.9)
        for arm, against in (("pke", "vanilla"), ("random", "pke"))
    ]
    page = build_report(make_run(tmp_path, comparisons=rows)).read_text(encoding="utf-8")
    assert "compatible with no change at all" in page
    assert "not shown to be better than random neurons" in page


def test_a_run_in_its_first_stage_has_a_report(tmp_path: Path) -> None:
    RunRecord(settings=RunSettings()).save(tmp_path)
    assert "Nothing has been measured yet" in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run.json", "region.json", "responses.jsonl"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (make_run(tmp_path) / name).write_text('{"neurons": ')
    with pytest.raises(RunFolderError, match=name):
        build_report(tmp_path)


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path)
    code = (
        "import sys; from pkedit.report import build_report; build_report(sys.argv[1])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
