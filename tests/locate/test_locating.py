"""Locating finds the planted neuron, keeps to its settings and leaves the model alone."""

import pytest
import torch

import pkedit
from pkedit.errors import RegionError, TooFewPairsError
from pkedit.locate.locating import Located, locate, pair_dialogues
from pkedit.models.chat import ChatModel
from pkedit.settings import LocateSettings
from tiny import Planted, changed_weights, leftovers, make_demonstrations, make_pairs, planted_chat, snapshot

EVERYWHERE = LocateSettings(neurons=6, first_layer=0.0, last_layer=1.0, precision="full")


def located(chat: ChatModel, settings: LocateSettings = EVERYWHERE, *, count: int = 8, seed: int = 0) -> Located:
    return locate(chat, make_pairs(count), make_demonstrations(count), settings, seed=seed)


@pytest.mark.parametrize(("index", "seed"), [(7, 0), (40, 1), (0, 2)])
def test_the_planted_neuron_is_the_first_of_the_region(index: int, seed: int) -> None:
    planted = planted_chat(index=index, seed=seed)
    best = located(planted.chat).region.neurons[0]
    assert (best.layer, best.index) == (planted.layer, planted.index)


@pytest.mark.parametrize("signal", ["pathway", "selectivity", "weight_tracking"])
def test_one_signal_alone_puts_the_planted_neuron_among_the_first(planted: Planted, signal: str) -> None:
    only = {name: float(name == signal) for name in ("weight_tracking", "pathway", "selectivity", "utility")}
    region = located(planted.chat, EVERYWHERE.model_copy(update={**only, "neurons": 3})).region
    assert (planted.layer, planted.index) in {(neuron.layer, neuron.index) for neuron in region.neurons}
    assert set(region.signals) == {signal}


def test_the_region_keeps_to_its_layers_and_counts(planted: Planted) -> None:
    region = located(planted.chat, EVERYWHERE.model_copy(update={"last_layer": 0.0, "neurons": 5})).region
    assert {layer: len(own) for layer, own in region.by_layer().items()} == {0: 5}
    region = located(planted.chat, EVERYWHERE.model_copy(update={"per_layer": 2})).region
    assert {layer: len(own) for layer, own in region.by_layer().items()} == {0: 2, 1: 2}


def test_every_signal_is_kept_for_every_neuron_and_layer(planted: Planted) -> None:
    region = located(planted.chat).region
    names = {"weight_tracking", "pathway", "selectivity", "utility"}
    assert all(set(neuron.ranks) == set(neuron.values) == names for neuron in region.neurons)
    assert set(region.layer_totals) == names
    assert all(len(totals) == 2 for totals in region.layer_totals.values())


def test_what_the_causal_check_needs_comes_with_it(planted: Planted) -> None:
    found = located(planted.chat, count=3)
    assert [len(mean) for mean in found.means] == [48, 48]
    assert len(found.margin) == 6
    assert len(found.harmless) == 3
    assert all(value > 0 for value in found.layer_weight_change)


def test_pairs_alternate_unsafe_and_safe_after_the_same_prompt(llama: ChatModel) -> None:
    pairs = make_pairs(2)
    items = pair_dialogues(llama, pairs, limit=3)
    for pair, unsafe, safe in zip(pairs, items[0::2], items[1::2], strict=True):
        assert unsafe.prompt == safe.prompt == tuple(llama.prompt_ids(pair.prompt.text))
        assert list(unsafe.answer) == llama.answer_ids(pair.unsafe, limit=3, ended=False)
        assert list(safe.answer) == llama.answer_ids(pair.safe, limit=3)


def test_locating_twice_gives_the_same_region(planted: Planted) -> None:
    assert located(planted.chat).region == located(planted.chat).region


def test_no_more_pairs_are_traced_than_the_settings_say(planted: Planted) -> None:
    found = located(planted.chat, EVERYWHERE.model_copy(update={"pairs": 3, "demonstrations": 2}))
    assert (len(found.margin), len(found.harmless)) == (6, 2)


@pytest.mark.parametrize(("pairs", "demonstrations"), [(0, 4), (1, 4), (4, 0), (4, 1)])
def test_fewer_than_two_of_either_are_refused(llama: ChatModel, pairs: int, demonstrations: int) -> None:
    with pytest.raises(TooFewPairsError, match=f"got {pairs} and {demonstrations}"):
        locate(llama, make_pairs(pairs), make_demonstrations(demonstrations), EVERYWHERE)


def test_two_of_either_are_enough(planted: Planted) -> None:
    found = locate(planted.chat, make_pairs(2), make_demonstrations(2), EVERYWHERE)
    assert (len(found.margin), len(found.harmless), len(found.region)) == (4, 2, 6)


def test_a_range_without_layers_is_refused(llama: ChatModel) -> None:
    with pytest.raises(RegionError, match="no neuron matches"):
        located(llama, EVERYWHERE.model_copy(update={"first_layer": 1.0, "last_layer": 0.0}))


def test_locating_leaves_the_model_as_it_was(chat: ChatModel) -> None:
    chat.model.train()
    before = snapshot(chat.model)
    located(chat)
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert chat.model.training
    assert all(weight.requires_grad for weight in chat.model.parameters())


def test_progress_counts_pairs_and_harmless_answers_together(llama: ChatModel) -> None:
    seen: list[tuple[int, int]] = []
    locate(
        llama,
        make_pairs(3),
        make_demonstrations(4),
        EVERYWHERE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_package_itself_is_the_function(planted: Planted) -> None:
    found = pkedit.locate(planted.chat, make_pairs(8), make_demonstrations(8), EVERYWHERE)
    assert found.region == located(planted.chat).region


def test_reduced_precision_finds_the_planted_neuron_too(planted: Planted) -> None:
    best = located(planted.chat, EVERYWHERE.model_copy(update={"precision": "bfloat16"})).region.neurons[0]
    assert (best.layer, best.index) == (planted.layer, planted.index)
    assert torch.isfinite(torch.tensor(list(best.values.values()))).all()


def test_several_probe_steps_find_the_planted_neuron_and_restore_the_weights(planted: Planted) -> None:
    before = snapshot(planted.chat.model)
    several = EVERYWHERE.model_copy(update={"probe_steps": 3, "probe_learning_rate": 0.05})
    found = located(planted.chat, several)
    assert (found.region.neurons[0].layer, found.region.neurons[0].index) == (planted.layer, planted.index)
    assert found.layer_weight_change != located(planted.chat).layer_weight_change
    assert changed_weights(planted.chat.model, before) == []


@pytest.mark.parametrize("tokens_per_batch", [20, 10_000])
def test_small_probe_steps_go_where_the_trace_says_one_step_would_go(llama: ChatModel, tokens_per_batch: int) -> None:
    rate, settings = 1e-3, EVERYWHERE.model_copy(update={"neurons": 40, "tokens_per_batch": tokens_per_batch})
    one = located(llama, settings, count=5)
    two = located(llama, settings.model_copy(update={"probe_steps": 2, "probe_learning_rate": rate}), count=5)
    change = [total / (2 * rate) for total in two.layer_weight_change]
    assert change == pytest.approx(one.layer_weight_change, rel=0.02)
    values = {neuron.id: neuron.values["weight_tracking"] for neuron in one.region.neurons}
    common = [neuron for neuron in two.region.neurons if neuron.id in values]
    assert len(common) > 36
    for neuron in common:
        assert neuron.values["weight_tracking"] / (2 * rate) == pytest.approx(values[neuron.id], rel=0.05)
