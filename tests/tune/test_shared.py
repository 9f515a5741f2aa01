"""What trials share changes nothing: regions and deltas are those that locating and editing alone would give."""

from dataclasses import dataclass

import pytest
import torch

from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.errors import NonFiniteLossError, RegionError
from pkedit.locate.locating import locate
from pkedit.locate.region import Region
from pkedit.models.chat import ChatModel
from pkedit.prompts import ContrastPair, Demonstration, Prompt
from pkedit.run.data import edit_prompts, held_out_prompts, read_splits, sample_targets
from pkedit.settings import RunSettings
from pkedit.tune.shared import Edits, Regions
from pkedit.tune.space import settings_at
from tiny import changed_weights, leftovers, make_region, snapshot

POINTS = (
    {},
    {"locate.neurons": 2, "locate.weight_tracking": 0.3, "edit.learning_rate": 0.3},
    {"locate.neurons": 20, "locate.utility": 0.0, "edit.steps": 3, "edit.harmless_weight": 1.0},
    {"locate.pathway": 0.0, "locate.selectivity": 1.7, "edit.strength_target": 0.5, "edit.unsafe_weight": 0.0},
)


@dataclass(frozen=True)
class Learnt:
    pairs: list[ContrastPair]
    kept: list[Demonstration]
    held_out: list[Prompt]
    regions: Regions
    edits: Edits


@pytest.fixture(scope="module")
def learnt(tune_chat: ChatModel, tune_settings: RunSettings) -> Learnt:
    splits = read_splits(tune_settings)
    pairs, kept = sample_targets(tune_chat, edit_prompts(splits, tune_settings), tune_settings)
    held_out = held_out_prompts(splits)
    return Learnt(
        pairs,
        kept,
        held_out,
        Regions(tune_chat, pairs, kept, tune_settings),
        Edits(tune_chat, pairs, kept, held_out, tune_settings),
    )


def numbers(delta: Delta) -> list[torch.Tensor]:
    return [change for layer in delta.layers for change in layer.change.values()]


@pytest.mark.parametrize("point", POINTS)
def test_a_region_is_the_one_that_a_trace_of_its_own_gives(
    point: dict[str, float], learnt: Learnt, tune_chat: ChatModel, tune_settings: RunSettings
) -> None:
    settings = settings_at(tune_settings, point).locate
    alone = locate(tune_chat, learnt.pairs, learnt.kept, settings, seed=tune_settings.seed).region
    assert learnt.regions.choose(settings) == alone


@pytest.mark.parametrize("point", POINTS)
def test_a_delta_is_the_one_that_an_edit_of_its_own_learns(
    point: dict[str, float], learnt: Learnt, tune_chat: ChatModel, tune_settings: RunSettings
) -> None:
    settings = settings_at(tune_settings, point)
    assert_learnt_alike(learnt, tune_chat, learnt.regions.choose(settings.locate), settings)


def test_a_region_above_the_lowest_candidates_learns_from_the_same_prompts(
    learnt: Learnt, tune_chat: ChatModel, tune_settings: RunSettings
) -> None:
    assert learnt.regions.choose(tune_settings.locate).lowest_layer < 2
    assert_learnt_alike(learnt, tune_chat, make_region({2: [0, 5]}), tune_settings)


def assert_learnt_alike(learnt: Learnt, tune_chat: ChatModel, region: Region, settings: RunSettings) -> None:
    before = snapshot(tune_chat.model)
    shared = learnt.edits.learn(region, settings)
    alone = edit(tune_chat, region, learnt.pairs, learnt.kept, settings.edit, held_out=learnt.held_out).delta
    assert [layer.layer for layer in shared.layers] == [layer.layer for layer in alone.layers]
    for mine, theirs in zip(numbers(shared), numbers(alone), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert changed_weights(tune_chat.model, before) == []
    assert leftovers(tune_chat.model) == []


def test_an_edit_leaves_nothing_behind_for_the_next_one(learnt: Learnt, tune_settings: RunSettings) -> None:
    region = learnt.regions.choose(tune_settings.locate)
    first = learnt.edits.learn(region, tune_settings)
    with pytest.raises(NonFiniteLossError):
        learnt.edits.learn(region, settings_at(tune_settings, {"edit.learning_rate": 1e30, "edit.norm_weight": 1e30}))
    again = learnt.edits.learn(region, tune_settings)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(numbers(first), numbers(again), strict=True))


def test_a_region_without_any_signal_is_refused(learnt: Learnt, tune_settings: RunSettings) -> None:
    none = dict.fromkeys(("locate.weight_tracking", "locate.pathway", "locate.selectivity", "locate.utility"), 0.0)
    with pytest.raises(RegionError, match="0 signals"):
        learnt.regions.choose(settings_at(tune_settings, none).locate)
