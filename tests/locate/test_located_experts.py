"""Locating in a mixture of experts: each expert by the tokens sent to it, and none chosen for never having seen one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import make_architecture_chat
from pkedit.edit.detector import detectors
from pkedit.edit.hooked import HookedDelta
from pkedit.locate.causal import causal_check
from pkedit.locate.dinm import layer_distances, toxic_layer, whole_layer
from pkedit.locate.locating import locate, pair_dialogues
from pkedit.locate.region import NeuronId, Region, RegionNeuron, random_region
from pkedit.locate.trace import Trace, trace
from pkedit.locate.weights import weight_change, weight_change_after_steps
from pkedit.models.batches import Dialogue, answer_scores, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.prefix import PrefixCache
from pkedit.settings import LocateSettings
from tiny import answer_log_likelihood, changed_weights, make_demonstrations, make_pairs, snapshot

# A shared expert and a dense first layer; experts alone; scaled inputs; and one that flattens, without experts.
FAMILIES = ("deepseek_v3", "gpt_oss", "llama4_text", "mixtral", "opt")
SIGNS = [1.0, -1.0] * 3


@pytest.fixture(params=FAMILIES)
def mixed(request: pytest.FixtureRequest) -> ChatModel:
    return make_architecture_chat(request.param)


@pytest.fixture
def mixtral() -> ChatModel:
    return make_architecture_chat("mixtral")


def dialogues(chat: ChatModel) -> list[Dialogue]:
    return pair_dialogues(chat, make_pairs(3), limit=8)


def traced(chat: ChatModel, items: list[Dialogue], signs: list[float], *, tokens_per_batch: int = 60) -> Trace:
    return trace(chat, items, signs, first_tokens=2, first_weight=1.0, tokens_per_batch=tokens_per_batch, seed=0)


def alone(chat: ChatModel, item: Dialogue, sign: float) -> list[tuple[Tensor, Tensor, Tensor] | None]:
    """Of one dialogue without padding, at each site: tokens, activations and their gradients; None where unreached."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(place: int) -> Callable[[object, tuple[Tensor, ...]], None]:
        def hook(_: object, args: tuple[Tensor, ...]) -> None:
            activation = args[0].flatten(0, -2) if args[0].dim() > 2 else args[0]
            tokens = chat.sites[place].routed_tokens
            seen[place] = (torch.arange(len(activation)) if tokens is None else tokens.clone()), args[0]

        return hook

    handles = [site.write.register_forward_pre_hook(keep(place)) for place, site in enumerate(chat.sites)]
    score = sign * answer_log_likelihood(chat, item.prompt, item.answer).mean()
    for handle in handles:
        handle.remove()
    places = list(seen)
    gradients = torch.autograd.grad(score, [seen[place][1] for place in places])
    shown: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(chat.sites)
    for place, gradient in zip(places, gradients, strict=True):
        width = gradient.shape[-1]
        shown[place] = seen[place][0], seen[place][1].detach().reshape(-1, width), gradient.reshape(-1, width)
    return shown


def test_the_trace_is_that_of_each_dialogue_alone(mixed: ChatModel) -> None:
    items = dialogues(mixed)
    found = traced(mixed, items, SIGNS)
    shown = [alone(mixed, item, sign) for item, sign in zip(items, SIGNS, strict=True)]
    reached = 0
    for place, seen in enumerate(found.layers):
        activations, decisions = [torch.zeros(0, len(seen.mean))], []
        for number, item in enumerate(items):
            here = shown[number][place]
            decision = torch.zeros(len(seen.mean))
            if here is not None:
                tokens, activation, gradient = here
                reached += 1
                activations.append(activation)
                product = (activation * gradient).sum(0)
                torch.testing.assert_close(seen.product[number], product, rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(seen.gradient[number], gradient.sum(0), rtol=1e-3, atol=1e-5)
                first = len(item.prompt) - 1
                decisive = list(range(first, first + min(3, len(item.answer))))
                for row, token in enumerate(tokens.tolist()):
                    if token in decisive:
                        decision += activation[row] / len(decisive)
            else:
                assert not seen.product[number].any()
            decisions.append(decision)
        every = torch.cat(activations)
        mean = every.mean(0) if len(every) else torch.zeros(len(seen.mean))
        torch.testing.assert_close(seen.mean, mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(seen.decision_mean, torch.stack(decisions).mean(0), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(seen.decision_variance, torch.stack(decisions).var(0), rtol=1e-3, atol=1e-5)
    assert reached > len(items)


def test_one_step_equals_the_step_really_taken(mixed: ChatModel) -> None:
    items, rate = dialogues(mixed), 0.1

    def margin() -> None:
        batch = make_batch(items, first_tokens=2, first_weight=1.0, device=mixed.device)
        ((answer_scores(mixed, batch) * torch.tensor(SIGNS)).sum() / 3).backward()  # type: ignore[no-untyped-call]

    predicted = weight_change(mixed, traced(mixed, items, SIGNS))
    before = snapshot(mixed.model)
    taken = weight_change_after_steps(mixed, margin, steps=1, learning_rate=rate)
    assert changed_weights(mixed.model, before) == []
    assert len(predicted.layer) == mixed.layers
    assert predicted.layer == pytest.approx([value / rate for value in taken.layer], rel=1e-2)
    for one, other in zip(predicted.neuron, taken.neuron, strict=True):
        torch.testing.assert_close(one, other / rate, rtol=1e-2, atol=1e-3 * float(predicted.neuron[0].max()))


def unreached(chat: ChatModel) -> tuple[int, int]:
    """Sends what the first layer's router means for expert 3 to expert 2; returns the one without tokens."""
    router: Any = chat.blocks[0].mlp.gate
    router.register_forward_hook(lambda _, __, output: (output[0], output[1], output[2].clamp_max(2)))
    return 0, 3


def test_an_expert_that_no_token_reached_has_no_signal_and_is_not_chosen_for_it(mixtral: ChatModel) -> None:
    silent = unreached(mixtral)
    found = traced(mixtral, dialogues(mixtral), SIGNS).layers[list(mixtral.places).index(silent)]
    assert not any(
        value.any() for value in (found.product, found.gradient, found.mean, found.decision_mean, found.sketch)
    )
    settings = LocateSettings(neurons=40, first_layer=0.0, last_layer=1.0, precision="full", tokens=4)
    region = locate(mixtral, make_pairs(4), make_demonstrations(4), settings).region
    assert len(region) == 40
    assert silent not in region.by_site()
    assert all(torch.isfinite(torch.tensor(neuron.score)) for neuron in region.neurons)


def test_the_layers_profile_is_the_sum_over_its_experts(mixtral: ChatModel) -> None:
    settings = LocateSettings(neurons=6, first_layer=0.0, last_layer=1.0, per_layer=3, precision="full")
    located = locate(mixtral, make_pairs(4), make_demonstrations(4), settings)
    assert all(len(totals) == 2 for totals in located.region.layer_totals.values())
    assert {layer: len(own) for layer, own in located.region.by_layer().items()} == {0: 3, 1: 3}
    assert len(located.means) == len(mixtral.sites)


def test_mean_ablation_of_an_expert_counts_where_it_is_reached(mixtral: ChatModel) -> None:
    items = dialogues(mixtral)
    means = [torch.zeros(site.neurons) for site in mixtral.sites]
    for site in (mixtral.places[1, 0], mixtral.places[1, 1]):
        region = Region(
            tuple(RegionNeuron(1, index, score=0.0, expert=site.expert) for index in range(12)), {"given": 1.0}
        )
        result = causal_check(
            mixtral,
            region,
            means,
            items,
            items[:2],
            random_regions=2,
            first_tokens=0,
            first_weight=1.0,
            tokens_per_batch=100,
            seed=0,
        )

        @torch.no_grad()
        def scores() -> Tensor:
            return torch.stack([answer_log_likelihood(mixtral, item.prompt, item.answer).mean() for item in items])

        before = scores()
        kept = site.write_vectors()[:12].detach().clone()
        with torch.no_grad():
            site.write_vectors()[:12] = 0.0
        fall = before - scores()
        with torch.no_grad():
            site.write_vectors()[:12] = kept
        assert result.effect == pytest.approx(float((fall[0::2] - fall[1::2]).mean()), abs=1e-4)


def test_random_regions_have_as_many_neurons_in_each_expert() -> None:
    chat = make_architecture_chat("qwen2_moe")
    neurons = tuple(RegionNeuron(layer, index, score=0.0, expert=expert) for layer, expert, index in PLACES)
    region = Region(neurons, {"given": 1.0})
    other = random_region(region, chat.sizes, seed=0)
    counts = {at: len(own) for at, own in region.by_site().items()}
    assert {at: len(own) for at, own in other.by_site().items()} == counts
    assert not {neuron.id for neuron in other.neurons} & {neuron.id for neuron in region.neurons}


PLACES = [(1, 2, 5), (0, 1, 3), (1, 0, 7), (0, 1, 1), (1, None, 2)]


def test_sites_and_neurons_are_sorted_by_layer_expert_and_index() -> None:
    neurons = tuple(RegionNeuron(layer, index, score=0.0, expert=expert) for layer, expert, index in PLACES)
    assert list(Region(neurons, {}).by_site().items()) == [
        ((0, 1), [1, 3]),
        ((1, None), [2]),
        ((1, 0), [7]),
        ((1, 2), [5]),
    ]
    assert Region(neurons, {}).lowest_layer == 0
    assert sorted(neuron.id for neuron in neurons)[0] == NeuronId(0, 1, expert=1)
    assert NeuronId(1, 2) < NeuronId(1, 2, expert=0) < NeuronId(2, 0)


def test_a_region_keeps_its_experts_through_a_file(tmp_path: Path) -> None:
    neurons = tuple(RegionNeuron(layer, index, score=0.5, expert=expert) for layer, expert, index in PLACES)
    Region(neurons, {"given": 1.0}).save(tmp_path / "region.json")
    assert Region.load(tmp_path / "region.json").neurons == neurons
    Region(neurons[-1:], {"given": 1.0}).save(tmp_path / "dense.json")
    assert "expert" not in (tmp_path / "dense.json").read_text()


def test_dinm_takes_every_neuron_of_every_expert_of_one_layer(mixed: ChatModel) -> None:
    pairs = make_pairs(2)
    assert layer_distances(mixed, pairs[0], limit=4).shape == (mixed.layers,)
    region = whole_layer(mixed, toxic_layer(mixed, pairs, limit=4))
    layer = region.lowest_layer
    assert len(region) == sum(site.neurons for site in mixed.sites_of(layer))
    assert set(region.by_site()) == {site.id for site in mixed.sites_of(layer)}


def test_all_experts_of_a_layer_get_the_detector_of_its_input(mixed: ChatModel) -> None:
    items = [*dialogues(mixed), *dialogues(mixed)[:2]]
    cache = PrefixCache(mixed, items, 0, first_tokens=1, first_weight=1.0, tokens_per_batch=60)
    harmful = [True, True, True, False, False, False, True, False]
    found = detectors(mixed, [0, 1], cache, harmful)
    # The same from each prompt alone.
    for layer in (0, 1):
        reading: dict[bool, list[Tensor]] = {True: [], False: []}
        module = mixed.sites_of(layer)[0].input_module
        for item, kind in zip(items, harmful, strict=True):
            seen: list[Tensor] = []
            handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            with torch.no_grad():
                mixed.model(torch.tensor([item.prompt]), use_cache=False)
            handle.remove()
            reading[kind].append(seen[0].reshape(len(item.prompt), -1)[-1] @ found[layer])
        assert float(torch.stack(reading[True]).mean()) == pytest.approx(1.0, abs=1e-3)
    region = Region(
        tuple(RegionNeuron(site.layer, 0, score=0.0, expert=site.expert) for site in mixed.sites), {"given": 1.0}
    )
    hooked = HookedDelta(mixed, region, ("write", "read0"), relative=False)
    hooked.open_gates(found, 2.0)
    for (layer, _, part), free in hooked.free.items():
        expected = 2.0 * found[layer].unsqueeze(0) if part == "read0" else torch.zeros_like(free)
        assert torch.allclose(free, expected)
