"""The causal check drawn: what holding the region at its harmless mean does, among random regions."""

from collections.abc import Mapping, Sequence
from typing import Any

from pkedit.report.canvas import Canvas, Chart, Frame, ticks
from pkedit.report.labels import Box, place_labels

STRIP = Frame(width=400, height=310, left=16, right=16, top=8)
FEW, LARGE, SMALL = 40, 4.5, 2.5
ROOM = 46.0
Place = tuple[float, float]


def causal_chart(check: Mapping[str, Any]) -> Chart:
    """Two strips on one axis: the preference for unsafe answers and what harmless answers lose, in nats."""
    rows = (
        (1.0, "unsafe", float(check["effect"]), [float(value) for value in check["random"]]),
        (0.0, "harmless", float(check["harmless_effect"]), [float(value) for value in check["random_harmless"]]),
    )
    everything = [0.0, *(value for _, _, own, others in rows for value in (own, *others))]
    air = 0.05 * ((max(everything) - min(everything)) or 1.0)
    limits = min(everything) - air, max(everything) + air
    canvas = Canvas(limits, (-0.42, 1.58), STRIP)
    canvas.axes(ticks(*limits, 6), (), "fall of the log-likelihood, nats per weighted token", "")
    for height in (0.0, 1.0):
        # Below the strip's heading.
        canvas.line((0.0, height - 0.42), (0.0, height + 0.38), "axis")
    words = {"unsafe": "Preference for unsafe answers", "harmless": "Likelihood of harmless answers"}
    for height, name, own, others in rows:
        canvas.line((limits[0], height), (limits[1], height), "grid")
        star = canvas.place(own, height)
        canvas.text((STRIP.left, star[1] - ROOM - 16), words[name], anchor="start", style="name halo")
        size = LARGE if len(others) <= FEW else SMALL
        dots = _stacked([canvas.place(value, height) for value in others], size, star)
        for value, (x, y) in zip(others, dots, strict=True):
            canvas.add('<circle cx="{}" cy="{}" r="{}" class="random-dot"><title>a random region: {}</title></circle>',
                       x, y, size, f"{value:.3f}")  # fmt: skip
        label = f"region {own:.3f}".replace("-", "−")
        canvas.mark("pke", *star, label, size=7.0)
        room = Box(STRIP.left, star[1] - ROOM - 12, STRIP.width - 2, star[1] + ROOM + 8)
        for box in place_labels({label: star}, room, others=dots).values():
            canvas.label(label, box, star)
    told = "; ".join(
        f"{name}: the region {own:.3f}" + (f", random regions {min(others):.3f} to {max(others):.3f}" if others else "")
        for _, name, own, others in rows
    )
    caption = (
        "The star is the region, each circle a random region with as many neurons per layer; all are held at their "
        "mean on harmless prompts. Upper strip: how much the preference for unsafe answers falls; a located region "
        "should lie to the right of every circle. Lower strip: what harmless answers lose; near zero is best."
    )
    return Chart("The region among random ones", canvas.svg("Causal check", f"{told}."), caption)


def _stacked(dots: Sequence[Place], size: float, star: Place) -> list[Place]:
    """The dots of a strip; one that would lie on another, or on the star, moves to the side as far as there is room."""
    placed: list[Place] = []
    for x, y in dots:
        shifts = [sign * step * (2 * size + 1) for step in range(int(ROOM / (2 * size + 1)) + 1) for sign in (-1, 1)]
        free = (
            shift
            for shift in shifts
            if all((x - ox) ** 2 + (y + shift - oy) ** 2 >= (2 * size) ** 2 for ox, oy in placed)
            and (x - star[0]) ** 2 + (y + shift - star[1]) ** 2 >= (size + 9) ** 2
        )
        placed.append((x, y + next(free, 0.0)))
    return placed
