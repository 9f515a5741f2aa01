"""The figures of the verdict as tiles: before and after, each with its interval, gains and costs side by side."""

from dataclasses import dataclass

from markupsafe import Markup

from pkedit.report.canvas import Canvas, Frame
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.run.wording import edited_arm, interval, metric_text

SHOWN = ("asr", "asr_bare", "over_refusal", "borderline_refusal", "capability", "kl")
BAR = Frame(width=220, height=40, left=9, right=9, top=4, bottom=4)


@dataclass(frozen=True)
class Tile:
    """One metric: its text before and after, the arm without an edit absent where it was not measured.

    `n`: of both, or before → after where answers were left unjudged.
    """

    name: str
    label: str
    better: str
    before: str
    after: str
    before_interval: str
    after_interval: str
    n: str
    bar: Markup | None


def tiles(record: RunRecord) -> list[Tile]:
    """The metrics of the verdict that the edited arm has, or where nothing was edited the unedited model."""
    arm = edited_arm(record)
    before = record.metrics.get("vanilla", {})
    after = record.metrics.get(arm or "vanilla", {})
    found = []
    for name in SHOWN:
        if name not in after:
            continue
        text = metric_text(name)
        # The drift of the model from itself is zero; it needs no telling.
        own = before.get(name) if arm and name != "kl" else None
        unit = " %" if text.percent else ""
        found.append(
            Tile(
                name,
                text.label.removesuffix(" %"),
                {"lower": "lower is better", "higher": "higher is better"}.get(text.better, ""),
                "" if own is None else f"{text.number(own.value)}{unit}",
                f"{text.number(after[name].value)}{unit}",
                "" if own is None else interval(name, own),
                interval(name, after[name]),
                str(after[name].n) if own is None or own.n == after[name].n else f"{own.n} → {after[name].n}",
                _bar(name, own, after[name], arm or "vanilla") if text.percent else None,
            )
        )
    return found


def _bar(name: str, before: RecordedMetric | None, after: RecordedMetric, arm: str) -> Markup:
    """A line from 0 to 100 % with a mark and an interval for each of the two."""
    canvas = Canvas((0.0, 100.0), (0.0, 1.0), BAR)
    canvas.line((0.0, 0.5), (100.0, 0.5), "grid")
    for own, metric, height in (("vanilla", before, 0.8), (arm, after, 0.2)):
        if metric is None:
            continue
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        canvas.line((100 * low, height), (100 * high, height), f"interval arm-{own}")
        canvas.mark(own, *canvas.place(100 * metric.value, height), f"{own}: {interval(name, metric)}", size=5.0)
    told = f"{arm} {metric_text(name).number(after.value)} %"
    if before is not None:
        told = f"vanilla {metric_text(name).number(before.value)} %, {told}"
    return canvas.svg(f"{metric_text(name).label} on a line from 0 to 100 %", f"{told}.")
