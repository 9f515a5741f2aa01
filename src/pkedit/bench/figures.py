"""What a stage found, as values: rows of costs, ratios to floors with their targets, and how a cost grows."""

from dataclasses import dataclass
from statistics import linear_regression, median

from pkedit.bench.measuring import Measured, extra_of, seconds_of


@dataclass(frozen=True)
class Row:
    """The cost of one thing, medians over repeats.

    `tokens`: those that it is for, the same for a thing and its floor. `extra_bytes`: peak memory beside what was
    there before. `flops`: floating point operations of the matrix products that it runs. `peak_share`: these per
    second, over what a large matrix product reaches on this device in the same format; None where not counted.
    """

    name: str
    seconds: float
    tokens: int
    extra_bytes: float
    weights_share: float
    flops: float | None = None
    peak_share: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens over seconds."""
        return self.tokens / self.seconds


def make_row(
    name: str,
    runs: list[Measured],
    *,
    tokens: int,
    weight_bytes: int,
    flops: float | None = None,
    peak_flops: float | None = None,
) -> Row:
    """A row from the runs of one thing.

    Args:
        name: of the thing.
        runs: at least one.
        tokens: that it is for.
        weight_bytes: of the model, which memory is a share of.
        flops: that one run needs.
        peak_flops: that the device can do in a second.
    """
    seconds, extra = seconds_of(runs), extra_of(runs)
    share = None if flops is None or peak_flops is None else flops / seconds / peak_flops
    return Row(name, seconds, tokens, extra, extra / weight_bytes, flops, share)


@dataclass(frozen=True)
class Ratio:
    """A thing over its floor, one value for each repeat. `target` is the most that it should be, or the least."""

    name: str
    values: tuple[float, ...]
    target: float | None = None
    at_least: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Curve:
    """How a cost grows: median `seconds` at each of `sizes`, which are numbers of `unit`, ascending.

    `r_squared`: of a straight line through them. `per_unit`: seconds per unit at the largest size over the same at
    the smallest; 1 where the cost is proportional, below where some of it is paid once.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    r_squared: float
    per_unit: float


def make_curve(name: str, unit: str, sizes: tuple[int, ...], seconds: tuple[float, ...]) -> Curve:
    """Fits the line. At least two different sizes; R² is 1 where the cost does not change at all."""
    line = linear_regression(sizes, seconds)
    mean = sum(seconds) / len(seconds)
    total = sum((own - mean) ** 2 for own in seconds)
    left = sum((own - line.intercept - line.slope * size) ** 2 for size, own in zip(sizes, seconds, strict=True))
    per_unit = (seconds[-1] / sizes[-1]) / (seconds[0] / sizes[0])
    return Curve(name, unit, sizes, seconds, 1.0 - left / total if total else 1.0, per_unit)


@dataclass(frozen=True)
class StageFigures:
    """All that one stage found. `notes` are sentences below the table: what was compared, and how large it was."""

    name: str
    rows: tuple[Row, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
