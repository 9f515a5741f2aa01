"""The trace holds what plain automatic differentiation gives, one dialogue at a time and without padding."""

import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pkedit.locate.trace import EXACT_WIDTH, Trace, recallable, summed, trace
from pkedit.models.batches import Dialogue, dialogue
from pkedit.models.chat import ChatModel
from tiny import (
    answer_log_likelihood,
    changed_weights,
    leftovers,
    make_chat,
    make_demonstrations,
    make_pairs,
    snapshot,
)

FIRST_TOKENS, FIRST_WEIGHT = 2, 4.0


def dialogues(chat: ChatModel) -> tuple[list[Dialogue], list[float]]:
    """Unsafe and safe dialogues of three pairs, of different lengths, and a harmless one."""
    items, signs = [], []
    for pair in make_pairs(3):
        items += [dialogue(chat, pair.prompt.text, pair.unsafe), dialogue(chat, pair.prompt.text, pair.safe)]
        signs += [1.0, -1.0]
    (kept,) = make_demonstrations(1)
    return [*items, dialogue(chat, kept.prompt.text, kept.answer)], [*signs, 0.5]


def traced(chat: ChatModel, *, tokens_per_batch: int = 40, seed: int = 0, **what: Any) -> Trace:
    items, signs = dialogues(chat)
    return trace(
        chat,
        items,
        signs,
        first_tokens=FIRST_TOKENS,
        first_weight=FIRST_WEIGHT,
        tokens_per_batch=tokens_per_batch,
        seed=seed,
        **what,
    )


def weighted_log_likelihood(chat: ChatModel, item: Dialogue) -> Tensor:
    weights = torch.tensor([FIRST_WEIGHT if place < FIRST_TOKENS else 1.0 for place in range(len(item.answer))])
    return (answer_log_likelihood(chat, item.prompt, item.answer) * weights).sum() / weights.sum()


@dataclass
class Plain:
    """What one dialogue alone showed in one layer: activations and their gradients, [tokens, I]."""

    activation: Tensor
    gradient: Tensor


def plainly(chat: ChatModel) -> tuple[list[list[Plain]], list[float]]:
    """Activations and gradients by hooks of this test's own, dialogue by dialogue, layer by layer."""
    shown, scores = [], []
    for item, sign in zip(*dialogues(chat), strict=True):
        seen: list[Tensor] = []
        handles = [
            site.write.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0])) for site in chat.sites
        ]
        score = weighted_log_likelihood(chat, item)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(sign * score, seen)
        shown.append([Plain(a.detach()[0], g[0]) for a, g in zip(seen, gradients, strict=True)])
        scores.append(float(score.detach()))
    return shown, scores


def test_products_and_gradients_are_those_of_plain_autograd(chat: ChatModel) -> None:
    shown, scores = plainly(chat)
    found = traced(chat)
    torch.testing.assert_close(found.log_likelihood, torch.tensor(scores), rtol=1e-4, atol=1e-5)
    for layer, seen in enumerate(found.layers):
        for number, plain in enumerate(shown):
            expected = plain[layer]
            assert expected.gradient.abs().max() > 1e-4
            torch.testing.assert_close(
                seen.product[number], (expected.activation * expected.gradient).sum(0), rtol=1e-3, atol=1e-5
            )
            torch.testing.assert_close(seen.gradient[number], expected.gradient.sum(0), rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_finite_differences(llama: ChatModel) -> None:
    (item, *_), _ = dialogues(llama)
    found = traced(llama)
    for layer, neuron in ((0, 3), (1, 11)):
        # Moving an activation at every token by the same amount changes Q by the sum of its gradients.
        def shifted(amount: float, layer: int = layer, neuron: int = neuron) -> Tensor:
            def shift(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                moved = args[0].clone()
                moved[..., neuron] += amount
                return (moved,)

            handle = llama.sites[layer].write.register_forward_pre_hook(shift)
            with torch.no_grad():
                score = weighted_log_likelihood(llama, item).double()
            handle.remove()
            return score

        slope = float(shifted(5e-3) - shifted(-5e-3)) / 1e-2
        assert float(found.layers[layer].gradient[0, neuron]) == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_mean_activation_counts_every_token_once_and_no_padding(chat: ChatModel) -> None:
    shown, _ = plainly(chat)
    found = traced(chat)
    for layer, seen in enumerate(found.layers):
        every_token = torch.cat([plain[layer].activation for plain in shown])
        torch.testing.assert_close(seen.mean, every_token.mean(0), rtol=1e-4, atol=1e-5)


def test_decisions_are_means_over_last_prompt_token_and_first_answer_tokens(chat: ChatModel) -> None:
    items, _ = dialogues(chat)
    shown, _ = plainly(chat)
    chosen = [True, False, True, True, False, True, False]
    two = [True, False, False, True, False, False, False]
    for compared in (None, chosen, two):
        found = traced(chat, compared=compared)
        for layer, seen in enumerate(found.layers):
            decisions = []
            for number, item in enumerate(items):
                if compared is None or compared[number]:
                    start = len(item.prompt) - 1
                    # The last answer token is never read to predict another one.
                    places = slice(start, min(start + FIRST_TOKENS + 1, len(item) - 1))
                    decisions.append(shown[number][layer].activation[places].mean(0))
            expected = torch.stack(decisions)
            torch.testing.assert_close(seen.decision_mean, expected.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(seen.decision_variance, expected.var(0), rtol=1e-3, atol=1e-7)


def test_dialogues_of_one_row_are_added_up(chat: ChatModel) -> None:
    alone, rows = traced(chat), [0, 0, 1, 1, 1, 0, 1]
    for one, added in zip(alone.layers, traced(chat, rows=rows).layers, strict=True):
        for name in ("product", "gradient"):
            whole = getattr(one, name)
            expected = torch.stack([whole[[row == which for row in rows]].sum(0) for which in (0, 1)])
            torch.testing.assert_close(getattr(added, name), expected, rtol=1e-4, atol=1e-6)
    for one, added in zip(summed(alone).layers, traced(chat, rows=[0] * 7).layers, strict=True):
        torch.testing.assert_close(one.product, added.product, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.gradient, added.gradient, rtol=1e-4, atol=1e-6)


def test_the_sketch_of_a_narrow_model_is_the_true_gradient_of_the_write_weights(chat: ChatModel) -> None:
    assert chat.sites[0].hidden <= EXACT_WIDTH
    items, signs = dialogues(chat)
    total = sum(sign * weighted_log_likelihood(chat, item) for item, sign in zip(items, signs, strict=True))
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, [site.write_weight for site in chat.sites])
    for site, gradient, seen in zip(chat.sites, gradients, traced(chat).layers, strict=True):
        expected = gradient.T if site.transposed else gradient
        assert seen.sketch.shape == (site.hidden, site.neurons)
        torch.testing.assert_close(seen.sketch, expected, rtol=1e-3, atol=1e-5)


def test_the_sketch_of_a_wide_model_keeps_the_lengths_of_the_gradient() -> None:
    chat = make_chat("llama", hidden=2 * EXACT_WIDTH, neurons=40, initializer_range=0.05)
    items, signs = dialogues(chat)
    total = sum(sign * weighted_log_likelihood(chat, item) for item, sign in zip(items, signs, strict=True))
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, [site.write_weight for site in chat.sites])
    first, other = traced(chat, seed=0), traced(chat, seed=1)
    for gradient, seen, elsewhere in zip(gradients, first.layers, other.layers, strict=True):
        assert seen.sketch.shape == (EXACT_WIDTH, 40)
        ratio = seen.sketch.norm(dim=0) / gradient.norm(dim=0)
        # 1/√(2·128) = 0.06 is one standard deviation of the ratio.
        assert ratio.min() > 0.7
        assert ratio.max() < 1.3
        assert not torch.equal(seen.sketch, elsewhere.sketch)


def test_a_layer_is_sketched_as_widely_as_asked_and_the_others_as_before() -> None:
    chat = make_chat("llama", hidden=2 * EXACT_WIDTH, neurons=40, initializer_range=0.05)
    whole, (none, some) = traced(chat), traced(chat, sketch_widths=[0, EXACT_WIDTH]).layers
    assert none.sketch.shape == (0, 40)
    torch.testing.assert_close(some.sketch, whole.layers[1].sketch)
    coarse, _ = traced(chat, sketch_widths=[32, 0]).layers
    ratio = float(coarse.sketch.norm() / whole.layers[0].sketch.norm())
    assert ratio == pytest.approx(1.0, abs=0.3)


def test_a_product_is_made_again_and_anything_else_is_held() -> None:
    first, second = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    product, plain = first * second, first.exp()
    assert torch.equal(recallable(product)(), product)
    assert recallable(product)().data_ptr() != product.data_ptr(), "held until the backward pass"
    assert recallable(plain)().data_ptr() == plain.data_ptr()
    assert not recallable(product)().requires_grad
    # Of a product with a number only one factor is kept.
    assert torch.equal(recallable(first * 2.0)(), first.detach() * 2.0)


def test_batching_does_not_change_the_trace(chat: ChatModel) -> None:
    alone, together = traced(chat, tokens_per_batch=1), traced(chat, tokens_per_batch=10_000)
    torch.testing.assert_close(alone.log_likelihood, together.log_likelihood, rtol=1e-4, atol=1e-5)
    for one, all_at_once in zip(alone.layers, together.layers, strict=True):
        for name in ("product", "gradient", "mean", "decision_mean", "decision_variance", "sketch"):
            torch.testing.assert_close(getattr(one, name), getattr(all_at_once, name), rtol=1e-3, atol=1e-5)


def test_a_product_is_recalled_from_factors_that_the_pass_holds_anyway() -> None:
    gate, up = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 5, 7, requires_grad=True)
    activation = gate.sigmoid() * up
    expected, gone = activation.detach().clone(), weakref.ref(activation)
    again = recallable(activation)
    total = activation.sum()
    del activation
    assert gone() is None
    assert torch.equal(again(), expected)
    total.backward()
    other = up.tanh()
    assert recallable(other)().data_ptr() == other.data_ptr()


def test_tracing_leaves_the_model_as_it_was(chat: ChatModel) -> None:
    chat.model.train()
    before = snapshot(chat.model)
    traced(chat)
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert chat.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in chat.model.parameters())


def test_progress_ends_with_all_dialogues(llama: ChatModel) -> None:
    items, signs = dialogues(llama)
    seen: list[tuple[int, int]] = []
    trace(
        llama,
        items,
        signs,
        first_tokens=1,
        first_weight=1.0,
        tokens_per_batch=40,
        seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
