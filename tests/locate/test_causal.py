"""The causal check tells a region that causes unsafe answers from one that does not."""

import pytest
import torch

from pkedit.locate.causal import CausalCheck, causal_check
from pkedit.locate.locating import Located, locate
from pkedit.locate.region import Region
from pkedit.models.batches import Dialogue
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.hooks import replaced_activations
from pkedit.settings import LocateSettings
from tiny import (
    Planted,
    answer_log_likelihood,
    changed_weights,
    leftovers,
    make_demonstrations,
    make_pairs,
    make_region,
    snapshot,
)

SETTINGS = LocateSettings(neurons=4, first_layer=0.0, last_layer=1.0, precision="full")


def found(chat: ChatModel) -> Located:
    return locate(chat, make_pairs(6), make_demonstrations(6), SETTINGS)


def check(
    chat: ChatModel, region: Region, located: Located, *, seed: int = 0, progress: Progress | None = None
) -> CausalCheck:
    return causal_check(
        chat,
        region,
        located.means,
        located.margin,
        located.harmless,
        random_regions=10,
        first_tokens=0,
        first_weight=1.0,
        tokens_per_batch=80,
        seed=seed,
        progress=progress,
    )


def test_the_planted_neuron_does_more_than_every_random_one(planted: Planted) -> None:
    result = check(planted.chat, make_region({planted.layer: [planted.index]}), found(planted.chat))
    assert result.beyond_all
    assert result.effect > 5 * max(abs(effect) for effect in result.random)
    assert abs(result.harmless_effect) < 0.1 * result.effect


def test_a_region_without_the_planted_neuron_is_not_called_causal(planted: Planted) -> None:
    located = found(planted.chat)
    others = [index for index in range(48) if index != planted.index]
    verdicts = [check(planted.chat, make_region({planted.layer: [index]}), located).beyond_all for index in others[:12]]
    # One in eleven exceeds ten others by chance.
    assert sum(verdicts) <= 5


def test_the_effect_is_what_plain_passes_give(planted: Planted) -> None:
    chat, located = planted.chat, found(planted.chat)
    region = make_region({0: [3], planted.layer: [planted.index, 11]})

    @torch.no_grad()
    def mean(items: tuple[Dialogue, ...]) -> float:
        scores = [answer_log_likelihood(chat, item.prompt, item.answer).mean() for item in items]
        return float(torch.stack(scores).mean())

    def scores() -> tuple[float, float]:
        return mean(located.margin[0::2]) - mean(located.margin[1::2]), mean(located.harmless)

    before = scores()
    held = [
        (chat.sites[layer].write, torch.tensor(own), located.means[layer][own])
        for layer, own in region.by_layer().items()
    ]
    with replaced_activations(held):
        after = scores()
    result = check(chat, region, located)
    assert result.effect == pytest.approx(before[0] - after[0], abs=1e-4)
    assert result.harmless_effect == pytest.approx(before[1] - after[1], abs=1e-4)


def test_as_many_random_regions_are_compared_as_asked_for_and_the_seed_decides_them(planted: Planted) -> None:
    located = found(planted.chat)
    region = make_region({planted.layer: [planted.index, 2]})
    first, again, other = (check(planted.chat, region, located, seed=seed) for seed in (0, 0, 1))
    assert len(first.random) == len(first.random_harmless) == 10
    assert len(set(first.random)) == 10
    assert first == again
    assert first.random != other.random
    assert first.effect == pytest.approx(other.effect, abs=1e-6)


def test_progress_counts_the_region_and_every_random_one(llama: ChatModel) -> None:
    steps: list[tuple[int, int]] = []
    check(llama, make_region({1: [2]}), found(llama), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 11) for done in range(1, 12)]


def test_the_model_is_left_as_it_was(chat: ChatModel) -> None:
    chat.model.train()
    located = found(chat)
    before = snapshot(chat.model)
    check(chat, located.region, located)
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert chat.model.training
