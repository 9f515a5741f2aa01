"""Charts as inline SVG, made without a plotting library: they follow the page's colours, dark or light.

Every text is a number or one of pkedit's own words, and is escaped all the same.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from pkedit.run.record import RecordedMetric, RunRecord

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 16, 46
ARM_ORDER = ("vanilla", "suffix", "dinm", "ft", "random", "pke")
TERMS = {"safe": "hinge on the safe answer", "unsafe": "unlikelihood of the unsafe one", "harmless": "harmless KL"}


class _Canvas:
    """Collects SVG elements; x and y are data values between the given limits."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y
        self._parts: list[Markup] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Data values as pixels."""
        across = (x - self._x[0]) / ((self._x[1] - self._x[0]) or 1)
        up = (y - self._y[0]) / ((self._y[1] - self._y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        (x1, y1), (x2, y2) = self.place(*start), self.place(*end)
        self.add('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>', x1, y1, x2, y2, style)

    def text(self, at: tuple[float, float], words: str, *, anchor: str = "middle", style: str = "") -> None:
        self.add('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>', *at, anchor, style, words)

    def add(self, template: str, *values: object) -> None:
        rounded = (f"{value:.1f}" if isinstance(value, float) else value for value in values)
        self._parts.append(Markup(template).format(*rounded))

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> None:
        for tick in y_ticks:
            self.line((self._x[0], tick), (self._x[1], tick), "grid")
            x, y = self.place(self._x[0], tick)
            self.text((x - 8, y + 4), _number(tick), anchor="end")
        for tick in x_ticks:
            x, y = self.place(tick, self._y[0])
            self.text((x, y + 18), _number(tick))
        self.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6.0), x_name, style="name")
        self.add(
            '<text transform="translate(14 {}) rotate(-90)" text-anchor="middle" class="name">{}</text>',
            (TOP + HEIGHT - BOTTOM) / 2,
            y_name,
        )

    def svg(self, title: str) -> Markup:
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, HEIGHT, title, Markup("\n").join(self._parts)
        )


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
    canvas = _Canvas((0.0, reach), (0.0, 100.0))
    canvas.axes(_ticks(reach), _ticks(100.0), "everyday prompts refused, %", "attacks answered harmfully, %")
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
    canvas = _Canvas((-0.5, len(counts) - 0.5), (0.0, float(top)))
    every = max(1, math.ceil(len(counts) / 16))
    canvas.axes(range(0, len(counts), every), _ticks(top), "layer", "neurons in the region")
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
    canvas = _Canvas((0.0, float(last)), (0.0, 1.35))
    canvas.axes(_ticks(last), (0, 0.5, 1), "step", "share of the term's maximum")
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


def _ticks(reach: float) -> list[float]:
    """About five round values from 0 to `reach`."""
    step = next(step * 10**power for power in range(6) for step in (1, 2, 5) if reach / (step * 10**power) <= 6)
    return [step * number for number in range(int(reach / step) + 1)]


def _low(metric: RecordedMetric) -> float:
    return metric.value if metric.low is None else metric.low


def _high(metric: RecordedMetric) -> float:
    return metric.value if metric.high is None else metric.high


def _number(value: float) -> str:
    return str(escape(f"{value:g}"))
