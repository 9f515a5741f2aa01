"""Each signal measures what its name says: planted neurons are found, and no shortcut puts others first."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from pkedit.locate.locating import pair_dialogues
from pkedit.locate.pathway import contributions
from pkedit.locate.selectivity import selectivities
from pkedit.locate.trace import LayerTrace, Trace, trace
from pkedit.locate.utility import utilities
from pkedit.models.batches import Dialogue, answer_logits, dialogue, log_likelihoods, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import replaced_activations
from tiny import Planted, make_demonstrations, make_pairs, planted_chat

PAIRS = 8
OPTIONS = {"first_tokens": 1, "first_weight": 4.0}


@dataclass(frozen=True)
class Traced:
    """Traces of pairs and of harmless answers, with the dialogues of the pairs."""

    margin: Trace
    harmless: Trace
    dialogues: list[Dialogue]


def traces(chat: ChatModel) -> Traced:
    dialogues = pair_dialogues(chat, make_pairs(PAIRS), limit=8)
    kept = [dialogue(chat, item.prompt.text, item.answer) for item in make_demonstrations(PAIRS)]
    return Traced(
        trace(chat, dialogues, [1.0, -1.0] * PAIRS, **OPTIONS, tokens_per_batch=256, seed=0),
        trace(chat, kept, [1.0] * PAIRS, **OPTIONS, tokens_per_batch=256, seed=0),
        dialogues,
    )


def rank(values: tuple[Tensor, ...], layer: int, index: int) -> int:
    """How many neurons of the model have a higher value."""
    return int((torch.cat(values) > values[layer][index]).sum())


@torch.no_grad()
def margin(chat: ChatModel, dialogues: list[Dialogue]) -> float:
    batch = make_batch(dialogues, **OPTIONS, device=chat.device)
    scores = batch.per_dialogue(log_likelihoods(answer_logits(chat, batch), batch.target))
    return float((scores[0::2] - scores[1::2]).mean())


@torch.no_grad()
def fall_when_held(chat: ChatModel, seen: Traced, layer: int, index: int) -> float:
    """How far M falls when one neuron is held at its mean on harmless prompts: the truth that the pathway estimates."""
    value = seen.harmless.layers[layer].mean[index : index + 1]
    before = margin(chat, seen.dialogues)
    with replaced_activations([(chat.sites[layer].write, torch.tensor([index]), value)]):
        return before - margin(chat, seen.dialogues)


def made_up(decision: Tensor) -> Trace:
    """A one-layer trace with the given activations at the decision tokens, [n, I]."""
    width = decision.shape[1]
    nothing = torch.zeros_like(decision)
    layer = LayerTrace(nothing, nothing, torch.zeros(width), decision.mean(0), decision.var(0), nothing)
    return Trace((layer,), torch.zeros(len(decision)))


@pytest.mark.parametrize(("layer", "index", "seed"), [(1, 7, 0), (1, 40, 1), (1, 0, 2)])
def test_the_planted_neuron_is_first_by_pathway_and_selectivity(layer: int, index: int, seed: int) -> None:
    planted = planted_chat(layer=layer, index=index, seed=seed)
    seen = traces(planted.chat)
    assert rank(contributions(seen.margin, seen.harmless), layer, index) == 0
    assert rank(selectivities(seen.margin, seen.harmless), layer, index) <= 2


def test_the_planted_neuron_matters_to_no_harmless_answer(planted: Planted) -> None:
    values = utilities(traces(planted.chat).harmless)
    assert rank(values, planted.layer, planted.index) > 80


def test_a_neuron_that_pushes_the_safe_answer_contributes_below_zero(planted: Planted) -> None:
    with torch.no_grad():
        planted.chat.sites[planted.layer].write_vectors()[planted.index] *= -1.0
    seen = traces(planted.chat)
    values = contributions(seen.margin, seen.harmless)
    assert rank(tuple(-layer for layer in values), planted.layer, planted.index) == 0
    assert float(values[planted.layer][planted.index]) < 0


def test_the_pathway_estimates_what_holding_the_planted_neuron_does() -> None:
    # A first-order estimate holds for a neuron that does not saturate the softmax.
    planted = planted_chat(strength=0.01)
    seen = traces(planted.chat)
    estimate = float(contributions(seen.margin, seen.harmless)[planted.layer][planted.index])
    truth = fall_when_held(planted.chat, seen, planted.layer, planted.index)
    assert truth > 0.1
    assert estimate == pytest.approx(truth, rel=0.1)


def test_the_pathway_orders_ordinary_neurons_as_holding_them_does(planted: Planted) -> None:
    seen = traces(planted.chat)
    estimates = contributions(seen.margin, seen.harmless)
    for layer in (0, 1):
        others = [index for index in range(48) if (layer, index) != (planted.layer, planted.index)]
        truth = torch.tensor([fall_when_held(planted.chat, seen, layer, index) for index in others])
        both = torch.stack([estimates[layer][others], truth])
        assert float(both.corrcoef()[0, 1]) > 0.95, f"layer {layer}"


def test_contributions_are_the_mean_over_pairs(planted: Planted) -> None:
    seen = traces(planted.chat)
    twice = Trace(
        tuple(
            replace(layer, product=layer.product.repeat(2, 1), gradient=layer.gradient.repeat(2, 1))
            for layer in seen.margin.layers
        ),
        seen.margin.log_likelihood.repeat(2),
    )
    for one, two in zip(contributions(seen.margin, seen.harmless), contributions(twice, seen.harmless), strict=True):
        torch.testing.assert_close(one, two)


def test_a_neuron_that_is_always_at_its_mean_contributes_nothing() -> None:
    gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    steady = torch.tensor([2.0, 0.0, -1.0])
    layer = LayerTrace(steady * gradient, gradient, steady, steady, steady, gradient)
    both = Trace((layer,), torch.zeros(4))
    torch.testing.assert_close(contributions(both, both)[0], torch.zeros(3))
    torch.testing.assert_close(utilities(both)[0], torch.zeros(3))


def test_utilities_are_never_negative_and_not_all_zero(chat: ChatModel) -> None:
    for values in utilities(traces(chat).harmless):
        assert (values >= 0).all()
        assert values.max() > 1e-4


def test_help_in_one_answer_and_harm_in_another_do_not_cancel() -> None:
    product = torch.tensor([[1.0, 0.1], [-1.0, 0.1]])
    nothing = torch.zeros(2, 2)
    harmless = Trace((LayerTrace(product, nothing, torch.zeros(2), nothing, nothing, nothing),), torch.zeros(2))
    assert utilities(harmless)[0].tolist() == pytest.approx([1.0, 0.1])


def test_selectivity_is_the_effect_size() -> None:
    generator = torch.Generator().manual_seed(0)
    bad, good = torch.randn(50, 5, generator=generator) + 1.5, torch.randn(40, 5, generator=generator)
    variance = (bad.var(0) + good.var(0)) / 2
    expected = (bad.mean(0) - good.mean(0)).abs() / variance.clamp_min(float(variance.median())).sqrt()
    torch.testing.assert_close(selectivities(made_up(bad), made_up(good))[0], expected)


def test_a_nearly_constant_neuron_is_not_selective() -> None:
    generator = torch.Generator().manual_seed(0)
    bad, good = torch.randn(20, 9, generator=generator), torch.randn(20, 9, generator=generator)
    bad[:, 3] += 3.0
    # Neuron 6 hardly moves, but always in the same direction: a plain effect size calls it perfect.
    bad[:, 6] = 1e-4 + 1e-6 * bad[:, 6]
    good[:, 6] = 1e-6 * good[:, 6]
    plain = (bad.mean(0) - good.mean(0)).abs() / ((bad.var(0) + good.var(0)) / 2).sqrt()
    assert int(plain.argmax()) == 6
    floored = selectivities(made_up(bad), made_up(good))[0]
    assert int(floored.argmax()) == 3
    assert float(floored[6]) < 0.01


def test_selectivity_does_not_care_about_the_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    bad, good = torch.randn(20, 4, generator=generator) + 1.0, torch.randn(20, 4, generator=generator)
    torch.testing.assert_close(
        selectivities(made_up(bad), made_up(good))[0], selectivities(made_up(good), made_up(bad))[0]
    )


def test_a_layer_that_never_fires_has_finite_selectivity() -> None:
    values = selectivities(made_up(torch.zeros(4, 3)), made_up(torch.zeros(4, 3)))[0]
    assert torch.equal(values, torch.zeros(3))
