"""A sheet of inline SVG with axes: what every chart is drawn on. Colours come from the page's classes.

Texts are escaped and made visible here, whatever they are.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pkedit.report.labels import Box, nearest
from pkedit.visible import visible

FAR = 22.0


@dataclass(frozen=True)
class Frame:
    """Size of a sheet and its margins, in units that are pixels on a phone."""

    width: int = 380
    height: int = 300
    left: int = 58
    right: int = 14
    top: int = 14
    bottom: int = 42


@dataclass(frozen=True)
class Chart:
    """A drawing, its heading, and how to read it. `wide`: on a phone it scrolls in its own box."""

    title: str
    svg: Markup
    caption: str
    wide: bool = False


class Canvas:
    """Collects SVG elements; x and y are data values between the given limits."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], frame: Frame | None = None) -> None:
        self._x, self._y = x, y
        self.frame = frame or Frame()
        self._parts: list[Markup] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Data values as pixels."""
        frame = self.frame
        across = (x - self._x[0]) / ((self._x[1] - self._x[0]) or 1)
        up = (y - self._y[0]) / ((self._y[1] - self._y[0]) or 1)
        return (
            frame.left + across * (frame.width - frame.left - frame.right),
            frame.height - frame.bottom - up * (frame.height - frame.top - frame.bottom),
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """A line between two places in data values."""
        (x1, y1), (x2, y2) = self.place(*start), self.place(*end)
        self.add('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>', x1, y1, x2, y2, style)

    def curve(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through many places in data values."""
        placed = " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points)
        self.add('<polyline points="{}" class="{}"/>', placed, style)

    def text(self, at: tuple[float, float], words: str, *, anchor: str = "middle", style: str = "") -> None:
        """Words at a place in pixels."""
        self.add('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>', *at, anchor, style, words)

    def add(self, template: str, *values: object) -> None:
        """An element, its values escaped and numbers rounded."""
        self._parts.append(Markup(template).format(*(_attribute(value) for value in values)))

    def mark(self, arm: str, x: float, y: float, words: str, *, size: float = 6.0) -> None:
        """The mark of an arm at a place in pixels: every arm has its own shape beside its own colour."""
        self.add('<path d="{}" class="mark arm-{}"><title>{}</title></path>', shape(arm, x, y, size), arm, words)

    def label(self, words: str, box: Box, point: tuple[float, float]) -> None:
        """The name of a point in its box, with a line to the point where it lies away from it."""
        end = nearest(box, point)
        if math.dist(end, point) > FAR:
            self.add('<line x1="{}" y1="{}" x2="{}" y2="{}" class="leader"/>', *point, *end)
        self.text((box.left + 2, box.bottom - 4), words, anchor="start", style="label")

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> None:
        """Grid lines at the values of y, numbers at both, and what the axes are."""
        frame = self.frame
        for tick in y_ticks:
            self.line((self._x[0], tick), (self._x[1], tick), "grid")
            x, y = self.place(self._x[0], tick)
            self.text((x - 6, y + 4), number(tick), anchor="end")
        for tick in x_ticks:
            x, y = self.place(tick, self._y[0])
            self.text((x, y + 16), number(tick))
        self.text(((frame.left + frame.width - frame.right) / 2, frame.height - 6.0), x_name, style="name")
        self.add(
            '<text transform="translate(12 {}) rotate(-90)" text-anchor="middle" class="name">{}</text>',
            (frame.top + frame.height - frame.bottom) / 2,
            y_name,
        )

    def svg(self, title: str, description: str) -> Markup:
        """The drawing with its alternative text: a title, and in a sentence or two what is seen."""
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        return Markup(
            '<svg viewBox="0 0 {0} {1}" style="max-width:{6}px" role="img" aria-labelledby="{2}-title {2}-desc">'
            '<title id="{2}-title">{3}</title><desc id="{2}-desc">{4}</desc>{5}</svg>'
        ).format(
            self.frame.width,
            self.frame.height,
            name,
            visible(title),
            visible(description),
            Markup("\n").join(self._parts),
            # Letters little larger than those of the text around.
            round(1.25 * self.frame.width),
        )


def shape(arm: str, x: float, y: float, size: float) -> str:
    """The outline of an arm's mark around a place, as an SVG path; a circle where the arm has none of its own."""
    corners = {
        "suffix": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "dinm": ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
        "ft": ((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
        "random": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "pke": tuple(
            (radius * math.sin(math.pi * step / 5), -radius * math.cos(math.pi * step / 5))
            for step, radius in enumerate((1.6, 0.72) * 5)
        ),
    }.get(arm)
    if corners is None:
        return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z"
    return "M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners) + "z"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values from `low` to `high`."""
    reach = high - low
    if reach <= 0:
        return [low]
    rough = reach / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def number(value: float) -> str:
    """A number of an axis, with a true minus; `5e−6` where it is very small."""
    return re.sub(r"(e[+-])0", r"\1", f"{value:g}").replace("-", "−")


def _attribute(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.1f}"
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
