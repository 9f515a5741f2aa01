"""Weight tracking: one probe step read off the trace is the step really taken; weights come back bit for bit."""

import pytest
import torch
from torch import Tensor

from pkedit.errors import ModelLoadError
from pkedit.locate.locating import pair_dialogues
from pkedit.locate.trace import Trace, trace
from pkedit.locate.weights import compare_weights, weight_change, weight_change_after_steps
from pkedit.models.batches import Dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
from tiny import answer_log_likelihood, changed_weights, make_chat, make_pairs, snapshot

FIRST_TOKENS, FIRST_WEIGHT = 1, 3.0


def pairs(chat: ChatModel) -> list[Dialogue]:
    return pair_dialogues(chat, make_pairs(3), limit=8)


def margin_trace(chat: ChatModel) -> Trace:
    return trace(
        chat,
        pairs(chat),
        [1.0, -1.0] * 3,
        first_tokens=FIRST_TOKENS,
        first_weight=FIRST_WEIGHT,
        tokens_per_batch=100,
        seed=0,
    )


def margin(chat: ChatModel) -> Tensor:
    """Mean of log p(y⁻|x) − log p(y⁺|x) over the pairs, by plain forward passes."""
    scores = []
    for item in pairs(chat):
        weights = torch.tensor([FIRST_WEIGHT if place < FIRST_TOKENS else 1.0 for place in range(len(item.answer))])
        scores.append((answer_log_likelihood(chat, item.prompt, item.answer) * weights).sum() / weights.sum())
    return (torch.stack(scores[0::2]) - torch.stack(scores[1::2])).mean()


def test_one_step_equals_the_step_really_taken(chat: ChatModel) -> None:
    rate = 0.5
    predicted = weight_change(chat, margin_trace(chat))
    taken = weight_change_after_steps(chat, lambda: margin(chat).backward(), steps=1, learning_rate=rate)
    for one, other in zip(predicted.neuron, taken.neuron, strict=True):
        assert one.max() > 1e-3
        torch.testing.assert_close(one, other / rate, rtol=5e-3, atol=1e-5)
    assert predicted.layer == pytest.approx([value / rate for value in taken.layer], rel=5e-3)


def test_neuron_changes_are_relative_and_the_layer_total_is_the_frobenius_norm(llama: ChatModel) -> None:
    before = [site.write_weight.detach().clone() for site in llama.sites]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for site in llama.sites:
            site.write_weight.add_(torch.randn(site.write_weight.shape, generator=generator))
    change = compare_weights(llama, before)
    for site, old, neuron, layer in zip(llama.sites, before, change.neuron, change.layer, strict=True):
        moved = site.write_weight.detach() - old
        torch.testing.assert_close(neuron, moved.norm(dim=0) / old.norm(dim=0))
        assert layer == pytest.approx(float(moved.norm()), rel=1e-5)


def test_another_checkpoint_is_compared_neuron_by_neuron_in_conv1d_too() -> None:
    chat = make_chat("gpt2")
    before = [site.write_weight.detach().clone() for site in chat.sites]
    with torch.no_grad():
        chat.sites[1].write_vectors()[9] *= 1.5
    change = compare_weights(chat, before)
    assert change.layer[0] == 0.0
    assert change.neuron[1].nonzero().flatten().tolist() == [9]
    assert float(change.neuron[1][9]) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_weights_are_restored_bit_for_bit(chat: ChatModel, steps: int) -> None:
    chat.model.train()
    before = snapshot(chat.model)
    losses: list[float] = []

    def step() -> None:
        loss = margin(chat)
        losses.append(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]

    weight_change_after_steps(chat, step, steps=steps, learning_rate=0.05)
    assert len(losses) == steps
    assert losses == sorted(losses, reverse=True), "the steps were not taken"
    assert changed_weights(chat.model, before) == []
    assert chat.model.training
    assert all(weight.requires_grad for weight in chat.model.parameters())


def test_the_weights_are_restored_when_a_step_fails(llama: ChatModel) -> None:
    before = snapshot(llama.model)
    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("third step")
        margin(llama).backward()  # type: ignore[no-untyped-call]

    with pytest.raises(RuntimeError, match="third step"):
        weight_change_after_steps(llama, failing, steps=5, learning_rate=0.1)
    assert changed_weights(llama.model, before) == []
    assert all(weight.requires_grad for weight in llama.model.parameters())


def test_gradients_that_the_weights_had_are_theirs_again(llama: ChatModel) -> None:
    for site in llama.sites:
        site.write_weight.grad = torch.full_like(site.write_weight, 3.0)
    weight_change_after_steps(llama, lambda: margin(llama).backward(), steps=2, learning_rate=0.05)
    assert all(torch.equal(site.write_weight.grad, torch.full_like(site.write_weight, 3.0)) for site in llama.sites)


def test_quantised_weights_cannot_take_probe_steps(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlpSite, "quantised", True)
    with pytest.raises(ModelLoadError, match="leave probe_steps at 1"):
        weight_change_after_steps(llama, lambda: None, steps=2, learning_rate=0.05)


def test_more_steps_move_the_weights_further(llama: ChatModel) -> None:
    one, four = (
        weight_change_after_steps(llama, lambda: margin(llama).backward(), steps=steps, learning_rate=0.01)
        for steps in (1, 4)
    )
    assert all(later > 2 * first for first, later in zip(one.layer, four.layer, strict=True))


def test_a_zero_write_vector_does_not_divide_by_zero(llama: ChatModel) -> None:
    with torch.no_grad():
        llama.sites[1].write_vectors()[4] = 0.0
    change = weight_change(llama, margin_trace(llama))
    assert torch.isfinite(change.neuron[1]).all()
    assert change.neuron[1][4] > 0
