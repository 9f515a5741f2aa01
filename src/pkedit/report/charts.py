"""Charts as inline SVG, made without a plotting library: they follow the page's colours, dark or light.

Every text is a number or one of pkedit's own words, and is escaped all the same.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pkedit.report.canvas import RIGHT, TOP, WIDTH, Canvas, ticks
from pkedit.run.record import RecordedMetric, RunRecord

ARM_ORDER = ("vanilla", "suffix", "dinm", "ft", "random", "pke")
TERMS = {"safe": "hinge on the safe answer", "unsafe": "unlikelihood of the unsafe one", "harmless": "harmless KL"}


def trade_off_chart(record: RunRecord) -> Markup | None:
    """ASR against over-refusal, one point an arm with both intervals; best is the lower left corner."""
    points = {
        arm: (record.metrics[arm]["over_refusal"], record.metrics[arm]["asr"])
        for arm in ARM_ORDER
        if {"asr", "over_refusal"} <= record.metrics.get(arm, {}).keys()
    }
    if not points:
        return None
    widest = max(_high(refusal) for refusal, _ in points.values())
    reach = min(100.0, max(10.0, math.ceil(widest * 10) * 10.0))
    canvas = Canvas((0.0, reach), (0.0, 100.0))
    canvas.axes(ticks(reach), ticks(100.0), "everyday prompts refused, %", "attacks answered harmfully, %")
    for arm, (refusal, success) in points.items():
        x, y = 100 * refusal.value, 100 * success.value
        canvas.line((100 * _low(refusal), y), (100 * _high(refusal), y), f"bar arm-{arm}")
        canvas.line((x, 100 * _low(success)), (x, 100 * _high(success)), f"bar arm-{arm}")
        canvas.add('<circle cx="{}" cy="{}" r="6" class="dot arm-{}"/>', *canvas.place(x, y), arm)
    for arm, at in _apart({arm: canvas.place(100 * r.value, 100 * s.value) for arm, (r, s) in points.items()}).items():
        canvas.text(at, arm, anchor="start", style=f"label arm-{arm}")
    return canvas.svg("Attack success against refusals of everyday prompts, by arm")


def layer_chart(counts: Sequence[int]) -> Markup:
    """Neurons of the region in each layer, as bars."""
    top = max([*counts, 1])
    canvas = Canvas((-0.5, len(counts) - 0.5), (0.0, float(top)))
    every = max(1, math.ceil(len(counts) / 16))
    canvas.axes(range(0, len(counts), every), ticks(top), "layer", "neurons in the region")
    for layer, count in enumerate(counts):
        if count:
            (x1, y1), (x2, y2) = canvas.place(layer - 0.4, count), canvas.place(layer + 0.4, 0)
            shape = '<rect x="{}" y="{}" width="{}" height="{}" class="column"><title>layer {}: {}</title></rect>'
            canvas.add(shape, x1, y1, x2 - x1, y2 - y1, layer, count)
    return canvas.svg("Neurons of the region by layer")


def curve_chart(history: Sequence[Mapping[str, float]]) -> Markup:
    """The terms of the loss by step. KL is far smaller than the others, so each line is scaled to its own maximum."""
    last = len(history) - 1
    # Above 1 there is room for the legend.
    canvas = Canvas((0.0, float(last)), (0.0, 1.35))
    canvas.axes(ticks(last), (0, 0.5, 1), "step", "share of the term's maximum")
    for place, (term, name) in enumerate(TERMS.items()):
        values = [row[term] for row in history]
        top = max(values)
        points = " ".join(
            "{:.1f},{:.1f}".format(*canvas.place(step, value / top if top > 0 else 0.0))
            for step, value in enumerate(values)
        )
        canvas.add('<polyline points="{}" class="curve term-{}"/>', points, term)
        label = f"{name}: {values[0]:.3g} → {values[-1]:.3g}, most {top:.3g}"
        canvas.text((WIDTH - RIGHT - 4.0, TOP + 14.0 + 17 * place), label, anchor="end", style=f"label term-{term}")
    return canvas.svg("Terms of the loss by step")


def _apart(places: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Label positions right above their points, pushed upwards where they would lie on each other."""
    taken: list[tuple[float, float]] = []
    labels = {}
    for arm, (x, y) in sorted(places.items(), key=lambda item: -item[1][1]):
        # A label at the right edge goes to the left of its point.
        left = x + 10 if x < WIDTH - RIGHT - 60 else x - 58
        height = y - 9
        while any(abs(left - other) < 60 and abs(height - level) < 15 for other, level in taken):
            height -= 15
        taken.append((left, height))
        labels[arm] = (left, height)
    return labels


def _low(metric: RecordedMetric) -> float:
    return metric.value if metric.low is None else metric.low


def _high(metric: RecordedMetric) -> float:
    return metric.value if metric.high is None else metric.high
