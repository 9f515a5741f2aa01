"""Names beside the points of a chart, none upon another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Of letters of 12 pixels in bold, with the room between lines.
LETTER, LINE = 7.2, 15.0
# Half the width of a mark.
MARK = 8.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )  # fmt: skip

    def inside(self, other: "Box") -> bool:
        """Whether all of it lies in the other."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )  # fmt: skip


def place_labels(
    points: Mapping[str, tuple[float, float]],
    within: Box,
    *,
    lines: Sequence[Box] = (),
    others: Sequence[tuple[float, float]] = (),
) -> dict[str, Box]:
    """A box for each name as near to its point as can be: off all marks and names, and off `lines` where there is room.

    Args:
        points: where each name's mark is, in pixels.
        within: the names stay in it.
        lines: boxes to keep off where there is room.
        others: marks without a name.

    Returns:
        The boxes; a name for which there is no room at all is absent.
    """
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in (*points.values(), *others)]
    placed: dict[str, Box] = {}
    for name, (x, y) in points.items():
        best: tuple[float, Box] | None = None
        for cost, box in _candidates(x, y, LETTER * len(name)):
            if not box.inside(within) or any(box.meets(other) for other in (*marks, *placed.values())):
                continue
            cost += 14 * sum(box.meets(line) for line in lines)
            if best is None or cost < best[0]:
                best = cost, box
        if best is not None:
            placed[name] = best[1]
    return placed


def nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """The place of a box that is nearest to a point."""
    x, y = point
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def _candidates(x: float, y: float, width: float) -> list[tuple[float, Box]]:
    """Boxes around a point by their distance."""
    found = []
    for distance in (9, 14, 20, 28, 38, 50, 66, 86, 110, 140, 180):
        for step in range(16):
            across, down = math.cos(math.pi * step / 8), math.sin(math.pi * step / 8)
            middle_x, middle_y = x + across * (distance + width / 2), y + down * (distance + LINE / 2)
            box = Box(middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2)
            found.append((float(distance), box))
    return found
