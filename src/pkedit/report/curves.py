"""Training curves: a chart for each term of the loss, a line for each edit."""

from collections.abc import Mapping, Sequence

from pkedit.report.canvas import Canvas, Chart, Frame, ticks

TERMS = {
    "safe": ("Safe answers", "How far the safe answers are from being likely enough; 0: all are."),
    "unsafe": ("Unsafe answers", "The bounded unlikelihood of the unsafe ones; 0: unlikely enough."),
    "harmless": ("Harmless answers", "KL to the original on harmless answers; rises while the edit moves the model."),
    "norm": ("Size of the edit", "Mean of (‖δ‖ / ‖w‖)² over the edited vectors."),
}
SHEET = Frame(height=220)
MOST_POINTS = 300


def curve_charts(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Chart]:
    """One chart a term that any history has.

    Args:
        histories: of each edited arm, the terms of the loss by step, each before its weight.
    """
    charts = []
    for term, (title, meaning) in TERMS.items():
        lines = {arm: [row[term] for row in history if term in row] for arm, history in histories.items()}
        lines = {arm: values for arm, values in lines.items() if len(values) > 1}
        if lines:
            charts.append(_chart(title, meaning, lines))
    return charts


def _chart(title: str, meaning: str, lines: Mapping[str, Sequence[float]]) -> Chart:
    last = max(len(values) - 1 for values in lines.values())
    high = max(max(values) for values in lines.values()) or 1.0
    canvas = Canvas((0.0, float(last)), (0.0, 1.04 * high), SHEET)
    canvas.axes(ticks(0.0, float(last)), ticks(0.0, high, 4), "step", "ratio" if title == TERMS["norm"][0] else "nats")
    for arm, values in lines.items():
        every = max(1, len(values) // MOST_POINTS)
        kept = [*range(0, len(values) - 1, every), len(values) - 1]
        canvas.curve([(float(step), values[step]) for step in kept], f"curve arm-{arm}")
        canvas.mark(
            arm, *canvas.place(float(len(values) - 1), values[-1]), f"{arm}: ends at {values[-1]:.3g}", size=4.5
        )
    told = "; ".join(f"{arm} from {values[0]:.3g} to {values[-1]:.3g}" for arm, values in lines.items())
    return Chart(title, canvas.svg(f"Training: {title}", f"{told}."), f"{meaning} Last: {_ends(lines)}.")


def _ends(lines: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{arm} {values[-1]:.3g}" for arm, values in lines.items())
