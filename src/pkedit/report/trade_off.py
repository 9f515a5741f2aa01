"""Attack success against what it costs: one mark an arm, or a trial of the search, with both intervals."""

from collections.abc import Mapping, Sequence

from pkedit.report.canvas import Canvas, Chart, Frame, ticks
from pkedit.report.files import Trial
from pkedit.report.labels import Box, place_labels
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.run.wording import ARM_NAMES, with_interval

COSTS = {
    "over_refusal": "everyday prompts refused, %",
    "borderline_refusal": "borderline prompts refused, %",
    "kl": "KL to the original, nats a token",
}
IN_WORDS = {
    "over_refusal": "everyday refusals",
    "borderline_refusal": "borderline refusals",
    "kl": "drift (KL)",
}
SUCCESS = "attacks answered harmfully, %"
Point = tuple[RecordedMetric, RecordedMetric]


def trade_offs(record: RunRecord) -> list[Chart]:
    """A chart for each cost that was measured beside ASR."""
    charts = []
    for cost in COSTS:
        points = {
            arm: (record.metrics[arm][cost], record.metrics[arm]["asr"])
            for arm in ARM_NAMES
            if {"asr", cost} <= record.metrics.get(arm, {}).keys()
        }
        missing = [arm for arm, metrics in record.metrics.items() if "asr" in metrics and cost not in metrics]
        if points:
            charts.append(_chart(cost, points, missing))
    return charts


def front_charts(trials: Sequence[Trial]) -> list[Chart]:
    """All trials of the search by ASR and each cost; those on the front filled, the chosen one named."""
    charts = []
    for cost in COSTS:
        measured = [(trial, getattr(trial, cost)) for trial in trials if getattr(trial, cost) is not None]
        if not measured:
            continue
        canvas = _sheet(cost, [(metric, trial.asr) for trial, metric in measured])
        chosen: dict[str, tuple[float, float]] = {}
        others = []
        # The front is drawn last, on top of the others.
        for trial, metric in sorted(measured, key=lambda pair: (pair[0].front, pair[0].chosen)):
            if trial.front or trial.chosen:
                _bars(canvas, "trial", cost, (metric, trial.asr))
            x, y = canvas.place(_scaled(cost, metric.value), 100 * trial.asr.value)
            style = "chosen" if trial.chosen else "front" if trial.front else "other"
            words = f"trial {trial.number}: ASR {with_interval('asr', trial.asr)}, {with_interval(cost, metric)}"
            canvas.add('<circle cx="{}" cy="{}" r="{}" class="trial {}"><title>{}</title></circle>', x, y,
                       7 if trial.chosen else 5, style, words)  # fmt: skip
            if trial.chosen:
                chosen[f"trial {trial.number}, chosen"] = (x, y)
            else:
                others.append((x, y))
        for name, box in place_labels(chosen, _room(canvas), others=others).items():
            canvas.label(name, box, chosen[name])
        counted = f"{len(measured)} trials, {sum(trial.front for trial, _ in measured)} of them on the front."
        charts.append(
            Chart(
                f"ASR against {IN_WORDS[cost]}",
                canvas.svg(f"Tried settings: attack success against {IN_WORDS[cost]}", counted),
                f"{counted} Filled marks are on the front over all costs at once, so a filled mark may look beaten in "
                "one drawing alone. Lines are 95 % intervals.",
            )
        )
    return charts


def _chart(cost: str, points: Mapping[str, Point], missing: Sequence[str]) -> Chart:
    canvas = _sheet(cost, list(points.values()))
    lines = [box for point in points.values() for box in _interval_boxes(canvas, cost, point)]
    for arm, point in points.items():
        _bars(canvas, f"arm-{arm}", cost, point)
    places = {}
    for arm, (price, success) in points.items():
        places[arm] = canvas.place(_scaled(cost, price.value), 100 * success.value)
        words = f"{arm}: ASR {with_interval('asr', success)}, {IN_WORDS[cost]} {with_interval(cost, price)}"
        canvas.mark(arm, *places[arm], words)
    for arm, box in place_labels(places, _room(canvas), lines=lines).items():
        canvas.label(arm, box, places[arm])
    told = "; ".join(
        f"{arm} ASR {with_interval('asr', success)}, {with_interval(cost, price)}"
        for arm, (price, success) in points.items()
    )
    caption = f"Attacks that succeed (up) against {IN_WORDS[cost]} (right)."
    if missing:
        caption += f" Not measured for {', '.join(missing)}."
    title = f"ASR against {IN_WORDS[cost]}"
    return Chart(title, canvas.svg(title, f"{told}."), caption)


def _sheet(cost: str, points: Sequence[Point]) -> Canvas:
    """A canvas on which all intervals fit, ASR upwards from 0 to 100 %, with some air at zero."""
    widest = max(_scaled(cost, _high(price)) for price, _ in points)
    most = max(widest * 1.05, 0.02 if cost == "kl" else 10.0)
    reach = most if cost == "kl" else min(most, 100.0)
    canvas = Canvas((-0.04 * reach, reach), (-4.0, 104.0), Frame())
    canvas.axes(ticks(0.0, reach), ticks(0.0, 100.0), COSTS[cost], SUCCESS)
    return canvas


def _room(canvas: Canvas) -> Box:
    frame = canvas.frame
    return Box(frame.left, 2, frame.width - 2, frame.height - frame.bottom + 2)


def _bars(canvas: Canvas, style: str, cost: str, point: Point) -> None:
    price, success = point
    x, y = _scaled(cost, price.value), 100 * success.value
    canvas.line((_scaled(cost, _low(price)), y), (_scaled(cost, _high(price)), y), f"interval {style}")
    canvas.line((x, 100 * _low(success)), (x, 100 * _high(success)), f"interval {style}")


def _interval_boxes(canvas: Canvas, cost: str, point: Point) -> list[Box]:
    """The two intervals as thin boxes in pixels."""
    price, success = point
    x, y = canvas.place(_scaled(cost, price.value), 100 * success.value)
    left, bottom = canvas.place(_scaled(cost, _low(price)), 100 * _low(success))
    right, top = canvas.place(_scaled(cost, _high(price)), 100 * _high(success))
    return [Box(left, y - 1, right, y + 1), Box(x - 1, top, x + 1, bottom)]


def _scaled(cost: str, value: float) -> float:
    return value if cost == "kl" else 100 * value


def _low(metric: RecordedMetric) -> float:
    return metric.value if metric.low is None else metric.low


def _high(metric: RecordedMetric) -> float:
    return metric.value if metric.high is None else metric.high
