"""The growth curves as one SVG file: every cost over its largest against every size over its largest.

A cost that is proportional to the size lies on the diagonal; one that is partly paid once begins above it.
"""

from collections.abc import Sequence

from markupsafe import Markup

from pkedit.bench.figures import Curve
from pkedit.report.canvas import Canvas, Frame, ticks

# Distinct on white and on black.
COLOURS = ("#c2410c", "#2563eb", "#15803d", "#9333ea", "#0e7490", "#be185d")
STYLE = (
    "svg { background: #fff } text { font: 12px system-ui, sans-serif; fill: #333 } .name, .label { font-weight: 600 }"
    " .grid { stroke: #ddd } .diagonal { stroke: #999; stroke-dasharray: 4 4 } .curve { fill: none; stroke-width: 2 }"
)
SHEET = Frame(width=640, height=340)
LINE_HEIGHT = 17


def growth_chart(curves: Sequence[Curve]) -> str:
    """A whole SVG file of these curves, one colour each."""
    # Above the largest value there is room for the legend.
    top = 1.1 + 0.07 * len(curves)
    canvas = Canvas((0.0, 100.0), (0.0, 100.0 * top), SHEET)
    canvas.axes(
        ticks(0.0, 100.0), ticks(0.0, 100.0), "size, % of the largest", "seconds, % of those at the largest size"
    )
    canvas.line((0.0, 0.0), (100.0, 100.0), "diagonal")
    for place, curve in enumerate(curves):
        colour = COLOURS[place % len(COLOURS)]
        at = [
            canvas.place(100 * size / curve.sizes[-1], 100 * seconds / curve.seconds[-1])
            for size, seconds in zip(curve.sizes, curve.seconds, strict=True)
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        canvas.add('<polyline points="{}" class="curve" stroke="{}"/>', points, colour)
        for x, y in at:
            canvas.add('<circle cx="{}" cy="{}" r="3.5" fill="{}"/>', x, y, colour)
        label = (
            f"{curve.name}: {curve.sizes[0]} to {curve.sizes[-1]} {curve.unit}, {curve.seconds[0]:.2f} to "
            f"{curve.seconds[-1]:.2f} s, R² {curve.r_squared:.3f}"
        )
        where = (SHEET.left + 8.0, SHEET.top + 8.0 + LINE_HEIGHT * place)
        canvas.add('<text x="{}" y="{}" style="fill: {}" class="label">{}</text>', *where, colour, label)
    told = "; ".join(f"{curve.name} R² {curve.r_squared:.3f}" for curve in curves)
    return svg_file(canvas.svg("Cost of locating and editing against size", f"Nearness to a straight line: {told}."))


def svg_file(drawn: Markup) -> str:
    """A drawing as a file of its own, with the style that a page would have given it."""
    style = Markup("<style>{}</style>").format(Markup(STYLE))
    return (
        str(drawn).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1) + "\n"
    )
