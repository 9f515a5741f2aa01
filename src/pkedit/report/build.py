"""Turns a run folder into `report.html`: one file that loads nothing from anywhere and reads without scripts."""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import pkedit.run.wording as wording
from pkedit.errors import RunFolderError
from pkedit.report.answers import MOST_CHARACTERS, answer_groups, prompt_answers
from pkedit.report.causal import causal_chart
from pkedit.report.curves import curve_charts
from pkedit.report.durability import durability
from pkedit.report.files import PathwayFile, RegionFile, TuneFile, WordsFile, read_file, read_rows
from pkedit.report.heat import heat_map
from pkedit.report.layers import block_profiles, neuron_map, region_profiles
from pkedit.report.pathway_graph import drawn_edges, name_of, pathway_chart
from pkedit.report.text import shortened
from pkedit.report.tiles import tiles
from pkedit.report.trade_off import front_charts, trade_offs
from pkedit.run.record import RecordedComparison, RunRecord, write_atomically
from pkedit.visible import visible

TOP_NEURONS, TOP_EDGES = 12, 20


def build_report(folder: str | Path) -> Path:
    """Writes `report.html` into a run folder, finished or not, and returns its path.

    Raises:
        RunFolderError: not a run folder, one of its files is damaged, or it cannot be written.
    """
    folder = Path(folder)
    record = RunRecord.load(folder)
    page = _environment().get_template("page.html").render(
        record=record,
        title=_title(record.settings.model),
        **_look(),
        **_measured(record, folder),
        **_explained(record, folder),
        **_made(record),
        durability=durability(folder),
    )  # fmt: skip
    path = folder / "report.html"
    try:
        write_atomically(path, page.lstrip())
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None
    return path


@cache
def _environment() -> Environment:
    """Templates in which every text is made visible, then escaped; compiled once, for a run writes many reports."""
    environment = Environment(
        loader=PackageLoader("pkedit.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.globals.update(
        metric_text=wording.metric_text,
        interval=wording.interval,
        settled=wording.settled,
        arm_name=wording.arm_name,
        name_of=name_of,
        shortened=shortened,
        most_characters=MOST_CHARACTERS,
    )
    return environment


def _look() -> dict[str, Any]:
    """The style sheet, the script, and the only policy under which the page runs: this script and nothing loaded."""
    style, script = (
        files("pkedit.report").joinpath("page", name).read_text("utf-8") for name in ("style.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def _measured(record: RunRecord, folder: Path) -> dict[str, Any]:
    """What was asked, answered and measured."""
    entries = prompt_answers(read_rows(folder / "responses.jsonl"))
    edited = wording.edited_arm(record)
    maps = [heat_map(entries, arm, record.families) for arm in ("vanilla", edited) if arm is not None]
    groups = answer_groups(entries)
    tune = read_file(folder / "tune.json", TuneFile)
    shown = [entry for group in groups for entry in group.prompts]
    arms = [arm for arm in wording.ARM_NAMES if arm in record.metrics]
    return {
        "arms": [*arms, *(arm for arm in record.metrics if arm not in arms)],
        "edited": edited,
        "measured": wording.measured_metrics(record),
        "shared_n": {name: wording.shared_count(record, name) for name in wording.measured_metrics(record)},
        "headline": _held(wording.headline(record)),
        "verdict": [_held(sentence) for sentence in wording.verdict(record)],
        "tiles": tiles(record),
        "outcomes": [wording.outcome_sentence(record, arm) for arm in wording.ARM_NAMES if arm in record.verdicts],
        "unjudged": wording.unjudged_sentences(record),
        "heat_maps": [heat for heat in maps if heat is not None],
        "trade_offs": trade_offs(record),
        "tune": tune,
        "front": front_charts(tune.trials) if tune else [],
        "comparisons": _comparisons(record),
        "strength": wording.strength_sentence(record),
        "curves": curve_charts({arm: edit.history for arm, edit in record.edits.items()}),
        "answers": groups,
        "choices": {
            "categories": sorted({entry.category for entry in shown}),
            "attacks": sorted({entry.attack for entry in shown if entry.attack is not None}),
            "arms": list(dict.fromkeys(arm for entry in shown for arm in entry.answers)),
            "judgements": sorted({answer.judgement for entry in shown for answer in entry.answers.values()}),
        },
    }


def _explained(record: RunRecord, folder: Path) -> dict[str, Any]:
    """Where the toxicity lives, how it travels, and what the edit changed. A part without its file is absent."""
    region = read_file(folder / "region.json", RegionFile)
    pathway = read_file(folder / "pathway.json", PathwayFile)
    words = read_file(folder / "words.json", WordsFile)
    return {
        "region": region,
        "top": region.neurons[:TOP_NEURONS] if region else [],
        "profiles": region_profiles(region, record.settings.locate.probe_steps) if region else [],
        "map": neuron_map(region, _neurons_per_layer(record, region)) if region else None,
        "pathway": pathway,
        "graph": pathway_chart(pathway) if pathway else None,
        "blocks": block_profiles(pathway) if pathway else [],
        "edges": drawn_edges(pathway)[:TOP_EDGES] if pathway else [],
        "nodes": {node.id: node for node in pathway.nodes} if pathway else {},
        "causal": wording.causal_sentence(record),
        "causal_chart": causal_chart(record.causal) if record.causal else None,
        "words": words,
        "explainable": "pke" in record.edits,
    }


def _made(record: RunRecord) -> dict[str, Any]:
    """How the run was made, and how to make it again."""
    settings = record.settings.model_dump(mode="json")
    return {
        "settings": settings,
        "settings_file": json.dumps(settings, indent=1),
        "verb": _verb(record),
        "usage": wording.usage_sentences(record),
        "seconds": sum(stage.seconds for stage in record.stages.values()),
        "slowest": max((stage.seconds for stage in record.stages.values()), default=0.0),
        "peak": max((stage.peak_memory for stage in record.stages.values()), default=0),
    }


def _verb(record: RunRecord) -> str:
    """The command that does with these settings what was done."""
    settings = record.settings
    given = settings.delta is not None or settings.adapter is not None or settings.engine != "transformers"
    if given or list(record.metrics) == ["vanilla"]:
        return "evaluate"
    if record.metrics:
        return "run"
    return "edit" if record.edits else "locate"


def _held(sentence: str) -> str:
    """The sentence with its figures and their units never on two lines."""
    return sentence.replace(" %", "\u00a0%")


def _title(model: str) -> str:
    """A Hub id as it is; of a local path only the last part. Whole paths stand where the run is told how to repeat."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or path.exists() else model


def _comparisons(record: RunRecord) -> list[dict[str, Any]]:
    """One table for vanilla and one for PKE, each with a row for every other arm and a column for every metric.

    vanilla − PKE is left out: it is PKE − vanilla with the sign turned.
    """
    tables = []
    for against in ("vanilla", "pke"):
        rows: dict[str, dict[str, RecordedComparison]] = {}
        for row in record.comparisons:
            if row.against == against and row.arm != "vanilla":
                rows.setdefault(row.arm, {})[row.metric] = row
        if rows:
            compared = {metric for columns in rows.values() for metric in columns}
            names = [*wording.METRICS, *sorted(compared - wording.METRICS.keys())]
            tables.append({"against": against, "rows": rows, "metrics": [name for name in names if name in compared]})
    return tables


def _neurons_per_layer(record: RunRecord, region: RegionFile) -> int | None:
    """The width of the MLPs, from what share of all neurons the edit was; unknown where experts share a layer."""
    edit = record.edits.get("pke") or record.edits.get("random")
    if edit is None or edit.share_of_neurons <= 0 or any(neuron.expert is not None for neuron in region.neurons):
        return None
    return round(edit.neurons / edit.share_of_neurons / region.depth)
