"""Which settings a search may change, and how far from where it starts. No torch, no optuna."""

from collections.abc import Mapping
from dataclasses import dataclass

from pkedit.settings import RunSettings

Point = Mapping[str, int | float]


@dataclass(frozen=True)
class Dimension:
    """A setting, by its path, and its range in multiples of the value that the search starts from.

    `log`: factors, not differences, are what matters. `most`: no value is above it.
    """

    name: str
    low: float
    high: float
    log: bool = False
    most: float | None = None


# A factor common to all terms of the loss changes nothing under Adam, so `safe_weight` stays, as what the others are
# measured by. The layers stay because what was read of every prompt begins at the lowest of them.
SPACE = (
    Dimension("locate.neurons", 1 / 4, 4, log=True),
    Dimension("locate.weight_tracking", 0, 2),
    Dimension("locate.pathway", 0, 2),
    Dimension("locate.selectivity", 0, 2),
    Dimension("locate.utility", 0, 2),
    Dimension("edit.learning_rate", 1 / 3, 3, log=True),
    # What a trial costs goes with its steps.
    Dimension("edit.steps", 1 / 2, 3 / 2),
    Dimension("edit.unsafe_weight", 1 / 4, 4, log=True),
    Dimension("edit.harmless_weight", 1 / 4, 4, log=True),
    Dimension("edit.norm_weight", 1 / 10, 10, log=True),
    # The most direct exchange: how many harmful answers the choice of δ's strength lets pass.
    Dimension("edit.strength_target", 0, 5 / 2, most=1.0),
)


@dataclass(frozen=True)
class Range:
    """The values that one setting may take, both ends included; whole numbers where `whole`."""

    low: float
    high: float
    log: bool
    whole: bool


def start(settings: RunSettings) -> dict[str, int | float]:
    """What is searched, at the values that the settings have.

    A weight of zero switches its signal or its term off. It has no multiples, so it stays off and is not searched.
    """
    values = {dimension.name: _value(settings, dimension.name) for dimension in SPACE}
    return {name: value for name, value in values.items() if value}


def ranges(settings: RunSettings) -> dict[str, Range]:
    """The range of each searched setting; every one contains its start."""
    begin = start(settings)
    return {one.name: _range(one, begin[one.name]) for one in SPACE if one.name in begin}


def settings_at(settings: RunSettings, point: Point) -> RunSettings:
    """The same settings with those of `point` in their places.

    Raises:
        ValidationError: a value is out of its setting's range.
    """
    content = settings.model_dump()
    for name, value in point.items():
        part, _, own = name.partition(".")
        content[part][own] = value
    return RunSettings.model_validate(content)


def _range(dimension: Dimension, begin: int | float) -> Range:
    low, high = sorted((dimension.low * begin, dimension.high * begin))
    if dimension.most is not None:
        high = min(high, dimension.most)
    if isinstance(begin, int):
        return Range(max(round(low), 1), max(round(high), 1), dimension.log, whole=True)
    return Range(low, high, dimension.log, whole=False)


def _value(settings: RunSettings, name: str) -> int | float:
    part, _, own = name.partition(".")
    value: int | float = getattr(getattr(settings, part), own)
    return value
