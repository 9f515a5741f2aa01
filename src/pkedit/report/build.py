"""Turns a run folder into `report.html`: one file, no scripts, nothing loaded from anywhere."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pkedit.errors import RunFolderError
from pkedit.report.answers import answer_groups
from pkedit.report.charts import curve_chart, layer_chart, trade_off_chart
from pkedit.run.record import RecordedComparison, RunRecord, write_atomically
from pkedit.run.wording import (
    ARM_NAMES,
    METRICS,
    arm_name,
    causal_sentence,
    interval,
    measured_metrics,
    metric_text,
    outcome_sentence,
    settled,
    unjudged_sentences,
    verdict,
)

TOP_NEURONS = 20


def build_report(folder: str | Path) -> Path:
    """Writes `report.html` into a run folder, finished or not, and returns its path.

    Raises:
        RunFolderError: not a run folder, one of its files is damaged, or it cannot be written.
    """
    folder = Path(folder)
    record = RunRecord.load(folder)
    environment = Environment(
        loader=PackageLoader("pkedit", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("template.html").render(
        record=record,
        title=_title(record.settings.model),
        comparisons=_comparisons(record),
        arms=[arm for arm in ARM_NAMES if arm in record.metrics],
        arm_name=arm_name,
        metrics=METRICS,
        measured=measured_metrics(record),
        metric_text=metric_text,
        interval=interval,
        settled=settled,
        verdict=verdict(record),
        outcomes=[outcome_sentence(record, arm) for arm in ARM_NAMES if arm in record.verdicts],
        unjudged=unjudged_sentences(record),
        trade_off=trade_off_chart(record),
        causal=causal_sentence(record),
        region=_region(folder),
        curves={arm: curve_chart(edit.history) for arm, edit in record.edits.items() if len(edit.history) > 1},
        answers=answer_groups(_lines(folder / "responses.jsonl")),
        settings=record.settings.model_dump(mode="json"),
        stages=record.stages,
        seconds=sum(stage.seconds for stage in record.stages.values()),
        peak=max((stage.peak_memory for stage in record.stages.values()), default=0),
    )
    path = folder / "report.html"
    try:
        write_atomically(path, page.lstrip())
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None
    return path


def _title(model: str) -> str:
    """A Hub id as it is; of a local path only the last part, so that a shared report tells nothing of the machine."""
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
            measured = {metric for columns in rows.values() for metric in columns}
            tables.append({"against": against, "rows": rows, "metrics": [name for name in METRICS if name in measured]})
    return tables


def _region(folder: Path) -> dict[str, Any] | None:
    path = folder / "region.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        neurons = content["neurons"]
        counts: dict[int, int] = {}
        for neuron in neurons:
            counts[neuron["layer"]] = counts.get(neuron["layer"], 0) + 1
        totals = content["layer_totals"]
        depth = max([*counts, *(len(values) - 1 for values in totals.values())]) + 1
        return {
            "count": len(neurons),
            "layers": sorted(counts),
            "signals": content["signals"],
            "top": neurons[:TOP_NEURONS],
            "chart": layer_chart([counts.get(layer, 0) for layer in range(depth)]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: damaged ({error})") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: damaged ({error})") from None
