"""What a search may change lies around the settings that it starts from, and what they switch off stays off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkedit.settings import RunSettings
from pkedit.tune.space import SPACE, ranges, settings_at, start

ODD = RunSettings.model_validate(
    {
        "locate": {"neurons": 1, "selectivity": 0.0, "utility": -3.0},
        "edit": {"steps": 1, "unsafe_weight": 0.0, "strength_target": 0.9},
    }
)


def test_the_start_of_a_search_is_the_settings_themselves() -> None:
    for settings in (RunSettings(), ODD):
        assert settings_at(settings, start(settings)) == settings


def test_the_default_search_has_every_dimension_and_each_range_contains_its_start() -> None:
    begin, found = start(RunSettings()), ranges(RunSettings())
    assert list(found) == list(begin) == [dimension.name for dimension in SPACE]
    for name, one in found.items():
        assert one.low <= begin[name] <= one.high
        assert one.low < one.high
    assert (found["locate.neurons"].low, found["locate.neurons"].high) == (32, 512)
    assert (found["locate.utility"].low, found["locate.utility"].high) == (-2.0, 0.0)


def test_what_is_switched_off_is_not_searched() -> None:
    assert ranges(RunSettings()).keys() - ranges(ODD).keys() == {"locate.selectivity", "edit.unsafe_weight"}


@pytest.mark.parametrize("settings", [RunSettings(), ODD])
@given(share=st.floats(0, 1))
def test_every_point_within_the_ranges_gives_valid_settings(settings: RunSettings, share: float) -> None:
    point = {}
    for name, one in ranges(settings).items():
        value = min(max(one.low + share * (one.high - one.low), one.low), one.high)
        point[name] = round(value) if one.whole else value
    changed = settings_at(settings, point)
    assert {name: getattr(getattr(changed, name.split(".")[0]), name.split(".")[1]) for name in point} == point
    untouched = {"locate": settings.locate, "edit": settings.edit}
    assert changed.model_copy(update=untouched) == settings
