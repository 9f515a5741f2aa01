"""The report is one offline page made from files alone, in a fixed order, with the record's own figures."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sample_run import Outline, make_run, metric, pathway, record, response, tune, write_responses

from pkedit.errors import RunFolderError
from pkedit.report import build_report
from pkedit.run.record import RecordedComparison, RunRecord
from pkedit.run.wording import METRICS, interval, metric_text
from pkedit.settings import RunSettings

ORDER = [
    *("verdict", "arms", "heat", "trade-off", "front", "region", "pathway", "causal", "words", "training"),
    *("comparisons", "answers", "made", "again"),
]


def page_of(folder: Path) -> str:
    """The page with spaces that may be broken, as the tests write them."""
    return build_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")


def sections(page: str) -> list[str]:
    return [str(attributes["id"]) for tag, attributes in Outline(page).tags if tag == "section"]


def test_every_part_is_there_in_the_order_that_is_promised(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "tune.json").write_text(json.dumps(tune()))
    page = page_of(tmp_path)
    assert page.startswith("<!doctype html>")
    assert sections(page) == ORDER


def test_the_front_is_silent_where_nothing_was_tuned(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert sections(page) == [name for name in ORDER if name != "front"]
    assert "tune.json" not in page


def test_a_part_whose_file_is_absent_says_so_in_a_line(tmp_path: Path) -> None:
    make_run(tmp_path)
    for name in ("region", "pathway", "words"):
        (tmp_path / f"{name}.json").unlink()
    page = page_of(tmp_path)
    for name in ("region", "pathway", "words"):
        assert f"this folder has no {name}.json" in page


def test_what_was_not_asked_for_is_left_out_in_silence(tmp_path: Path) -> None:
    only = {"vanilla": record().metrics["vanilla"]}
    record(metrics=only, edits={}, causal=None, comparisons=[], verdicts={}).save(tmp_path)
    write_responses(tmp_path, [response("vanilla", "harmless", "s1", "benign")])
    page = page_of(tmp_path)
    assert sections(page) == ["verdict", "arms", "trade-off", "answers", "made", "again"]
    assert "Not shown" not in page


def test_all_figures_of_the_table_are_those_of_the_record(tmp_path: Path) -> None:
    metrics = record().metrics
    row = RecordedComparison(metric="asr", arm="random", against="pke", difference=metric(0.2345), p_value=0.0123)
    page = page_of(make_run(tmp_path, comparisons=[row]))
    table = re.search(r'<table class="arms">.*?</table>', page, re.DOTALL)
    assert table is not None
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)[ ↓↑]*<span.*?</th>\n(.*?)</tr>', table[0], re.DOTALL))
    for name in ("asr", "over_refusal", "borderline_refusal", "kl"):
        cells = re.findall(r"<td[^>]*>\s*([^<]+)<small>([^<]+)</small>", rows[METRICS[name].label])
        expected = [(metric_text(name).number(own[name].value), interval(name, own[name])) for own in metrics.values()]
        assert cells == expected
        assert f"n {metrics['pke'][name].n}" in page
    assert "+23.4" in page or "+23.5" in page
    assert "p 0.0123" in page


def test_the_verdict_is_a_sentence_with_gain_and_cost(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    lead = re.search(r'<p class="verdict">(.*?)</p>', page)
    assert lead is not None
    assert lead[1].startswith(
        "Safer but over-refusing: with PKE, harmful answers to attacks went from 90.0 % to 10.0 %"
    )
    for cost in ("everyday prompts from 5.0 % to 10.0 %", "borderline ones from 1.0 % to 30.0 %", "0.100 nats"):
        assert cost in lead[1]
    assert "90.0 % (85.0 to 95.0, n = 72) before, 10.0 % (5.0 to 15.0, n = 72)" in page
    assert "leave more attacks through" in page


def test_a_region_no_better_than_random_is_said_to_be_so(tmp_path: Path) -> None:
    check = {"effect": 0.1, "harmless_effect": 0.1, "random": [0.0, 0.2], "random_harmless": [], "beyond_all": False}
    assert "no better than random: only 1 of 2" in page_of(make_run(tmp_path, causal=check))


def test_differences_that_may_be_zero_are_not_called_effects(tmp_path: Path) -> None:
    rows = [
        RecordedComparison(metric="asr", arm=arm, against=against, difference=metric(0.01, half=0.1), p_value=0.9)
        for arm, against in (("pke", "vanilla"), ("random", "pke"))
    ]
    page = page_of(make_run(tmp_path, comparisons=rows))
    assert "compatible with no change at all" in page
    assert "not shown to be better than random neurons" in page


def test_the_words_that_went_and_came_are_marked(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert '<bdi class="token gone">lost</bdi>' in page
    assert '<bdi class="token new">won</bdi>' in page
    assert page.count('<bdi class="token">kept</bdi>') == 2
    assert "31 %" in page


def test_what_was_averaged_is_said_beside_the_graph_and_the_words(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert page.index('id="pathway"') < page.index("Means over the pairs.") < page.index('id="causal"')
    assert page.index('id="words"') < page.index("By the logit lens.") < page.index('id="training"')


def test_the_settings_on_the_page_repeat_the_run(tmp_path: Path) -> None:
    settings = RunSettings(model="someone/model", seed=7)
    outline = Outline(page_of(make_run(tmp_path, settings=settings)))
    shown = next(data for tag, data in outline.texts if tag == "pre" and data.startswith("{"))
    assert RunSettings.model_validate(json.loads(shown)) == settings
    assert "pkedit run --neurons 2" in outline.text()


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    outline = Outline(page)
    assert not {"src", "href", "srcset", "action"} & {name for _, attributes in outline.tags for name in attributes}
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", page)
    (policy,) = (attributes["content"] for _, attributes in outline.tags if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none'")


def test_harmful_prompts_and_answers_are_folded(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert "<details open" not in page
    before = page[: page.index("prompt h1")]
    assert before.count("<details") - before.count("</details>") == 2
    assert "prompt h1" not in "".join(re.findall(r"<summary>.*?</summary>", page, re.DOTALL))


def test_a_long_run_stays_below_three_megabytes_and_says_what_is_left_out(tmp_path: Path) -> None:
    rows = [
        response(arm, "harmless", f"s{number}", "benign", f"{number} & " + "word <b> " * 240)
        for number in range(1000)
        for arm in ("vanilla", "pke")
    ]
    rows += [response("pke", "bare", f"h{number}", "harmful", "é" * 9000) for number in range(40)]
    path = build_report(make_run(tmp_path, rows=rows))
    assert 1_000_000 < path.stat().st_size < 3_000_000
    page = path.read_text(encoding="utf-8")
    assert "3000 more characters in responses.jsonl" in page
    left_out = [int(count) for count in re.findall(r"(\d+) more prompts of this group", page)]
    assert sum(left_out) + page.count('<details class="entry"') == 1040


def test_a_run_in_its_first_stage_has_a_report(tmp_path: Path) -> None:
    RunRecord(settings=RunSettings()).save(tmp_path)
    assert "Nothing has been measured yet" in page_of(tmp_path)


@pytest.mark.parametrize(
    "name", ["run.json", "region.json", "responses.jsonl", "pathway.json", "words.json", "tune.json"]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (make_run(tmp_path) / name).write_text('{"neurons": ')
    with pytest.raises(RunFolderError, match=name):
        build_report(tmp_path)


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"attention": [float("nan")]}, {"nodes": [{"id": "x"}]}])
def test_content_that_cannot_be_drawn_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (make_run(tmp_path) / "pathway.json").write_text(json.dumps(pathway() | change))
    with pytest.raises(RunFolderError, match=r"pathway\.json"):
        build_report(tmp_path)


@pytest.mark.parametrize("row", ['{"arm": "pke"}', "[1]", '{"group": "bare", "attack": null, "arm": 1, "answer": 1}'])
def test_a_row_that_lacks_something_is_refused_in_one_line(tmp_path: Path, row: str) -> None:
    (make_run(tmp_path) / "responses.jsonl").write_text(row)
    with pytest.raises(RunFolderError, match=r"responses\.jsonl"):
        build_report(tmp_path)


def test_pkedit_report_rebuilds_the_page_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    make_run(tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'numpy', 'scipy'): sys.modules[name] = None\n"
        "from pkedit.cli import main\n"
        "main(['report', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("verb", "changes"),
    [
        ("run", {}),
        ("locate", {"metrics": {}, "edits": {}}),
        ("edit", {"metrics": {}}),
        ("evaluate", {"metrics": {"vanilla": {"asr": metric(0.9)}}, "edits": {}}),
        ("evaluate", {"settings": RunSettings(delta="delta.safetensors"), "edits": {}}),
    ],
)
def test_the_settings_are_to_be_run_by_the_command_that_did_what_was_done(
    tmp_path: Path, verb: str, changes: dict[str, Any]
) -> None:
    # The command of a run's first call is not always that of its last.
    folder = make_run(tmp_path, command="pkedit locate --out r", **changes)
    assert f"pkedit {verb} --settings settings.json" in build_report(folder).read_text(encoding="utf-8")


def test_a_figure_says_both_numbers_of_prompts_where_they_differ(tmp_path: Path) -> None:
    metrics = record().metrics
    metrics["pke"]["asr"] = metric(0.1, 60)
    page = build_report(make_run(tmp_path, metrics=metrics)).read_text(encoding="utf-8")
    assert f"n {metrics['vanilla']['asr'].n} → 60" in page


def test_the_strength_of_each_edit_is_told_and_one_that_was_not_chosen_is_not(tmp_path: Path) -> None:
    plain = record().edits["pke"]
    assert "Strength, the multiple" not in page_of(make_run(tmp_path))
    chosen = plain.model_copy(update={"strength": 1.1, "held_out_asr": 0.034})
    page = page_of(make_run(tmp_path, edits={"ft": plain, "pke": chosen}))
    assert "held out from training: pke 1.10, which leaves 3.4 %." in page
