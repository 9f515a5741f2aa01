"""What a stream did, as one SVG file: KL on harmless answers after each edit, and below it the rates. No torch."""

from collections.abc import Sequence

from markupsafe import Markup

from pkedit.bench.growth_chart import COLOURS, LINE_HEIGHT, svg_file
from pkedit.report.canvas import Canvas, Frame, number, ticks
from pkedit.run.record import RecordedMetric
from pkedit.stream.printing import FIXED, LABELS, RATES
from pkedit.stream.record import Measured, StreamRecord

UPPER, LOWER = Frame(width=640, height=250, bottom=44), Frame(width=640, height=300, top=14 + 2 * LINE_HEIGHT)


def stream_chart(record: StreamRecord) -> str:
    """A whole SVG file, made of what was measured with every edit in the model."""
    last = float(max(len(record.edits), 1))
    points = [one for one in record.measured if not one.without]
    upper, lower = _drift(record, last), _rates(points, last)
    told = f"A stream of {len(record.edits)} edits"
    return svg_file(
        Markup(
            '<svg viewBox="0 0 {0} {1}" style="max-width:800px" role="img" aria-label="{2}">'
            '<svg width="{0}" height="{3}">{4}</svg><svg y="{3}" width="{0}" height="{5}">{6}</svg></svg>'
        ).format(UPPER.width, UPPER.height + LOWER.height, told, UPPER.height, upper, LOWER.height, lower)
    )


def _drift(record: StreamRecord, last: float) -> Markup:
    """KL after each edit, with its interval; that of the unedited model to itself is 0."""
    values = [(0.0, 0.0, 0.0, 0.0)]
    for at, kl in sorted(_measured_drift(record).items()):
        low, high = (kl.value if bound is None else bound for bound in (kl.low, kl.high))
        values.append((float(at), kl.value, low, high))
    top = max(high for *_, high in values) or 1.0
    canvas = Canvas((0.0, last), (0.0, 1.05 * top), UPPER)
    canvas.axes(ticks(0.0, last), ticks(0.0, top, 4), "edits", "KL, nats per token")
    band = [canvas.place(at, high) for at, _, _, high in values]
    band += [canvas.place(at, low) for at, _, low, _ in reversed(values)]
    canvas.add('<polygon points="{}" fill="{}" opacity="0.15"/>', _joined(band), COLOURS[1])
    line = [canvas.place(at, value) for at, value, *_ in values]
    canvas.add('<polyline points="{}" class="curve" stroke="{}"/>', _joined(line), COLOURS[1])
    for x, y in line:
        canvas.add('<circle cx="{}" cy="{}" r="3" fill="{}"/>', x, y, COLOURS[1])
    return canvas.svg(
        "KL to the unedited model on harmless answers against the number of edits",
        f"From 0 to {number(round(values[-1][1], 3))} nats after {values[-1][0]:.0f} edits; shaded: 95 % interval.",
    )


def _measured_drift(record: StreamRecord) -> dict[int, RecordedMetric]:
    """KL by the number of edits, wherever it was measured with every edit in the model."""
    between = {one.number: one.kl for one in record.edits if one.kl is not None}
    return between | {
        one.edits: one.metrics["kl"] for one in record.measured if "kl" in one.metrics and not one.without
    }


def _rates(points: Sequence[Measured], last: float) -> Markup:
    canvas = Canvas((0.0, last), (0.0, 100.0), LOWER)
    canvas.axes(ticks(0.0, last), ticks(0.0, 100.0), "edits", "% of prompts")
    told = []
    for place, name in enumerate((FIXED, *RATES)):
        colour = COLOURS[place]
        values = [(float(one.edits), 100 * one.metrics[name].value) for one in points if name in one.metrics]
        if not values:
            continue
        placed = [canvas.place(*value) for value in values]
        canvas.add('<polyline points="{}" class="curve" stroke="{}"/>', _joined(placed), colour)
        for x, y in placed:
            canvas.add('<circle cx="{}" cy="{}" r="3.5" fill="{}"/>', x, y, colour)
        label = LABELS[name].removesuffix(" %")
        where = (LOWER.left + 8.0 + 200 * (place % 3), 16.0 + LINE_HEIGHT * (place // 3))
        canvas.add('<text x="{}" y="{}" style="fill: {}" class="label">{}</text>', *where, colour, label)
        told.append(f"{label} from {values[0][1]:.0f} to {values[-1][1]:.0f} %")
    return canvas.svg("Fixes held, attack success and refusals against the number of edits", f"{'; '.join(told)}.")


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
