"""A sheet of inline SVG with axes: what every chart is drawn on. Colours come from the page's classes."""

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 16, 46


class Canvas:
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


def ticks(reach: float) -> list[float]:
    """About five round values from 0 to `reach`."""
    step = next(step * 10**power for power in range(6) for step in (1, 2, 5) if reach / (step * 10**power) <= 6)
    return [step * number for number in range(int(reach / step) + 1)]


def _number(value: float) -> str:
    return str(escape(f"{value:g}"))
