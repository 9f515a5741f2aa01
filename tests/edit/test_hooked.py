"""δ acting through hooks is δ written into the weights, and its gradient is the true one."""

import pytest
import torch
from torch import Tensor

from pkedit.edit.delta import part_names, vectors
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import DeltaError, RegionError
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import outputs_of
from tiny import changed_weights, leftovers, make_chat, make_region, snapshot

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5, 40]])
REGION = {0: [2, 5], 1: [0, 7, 23]}


def random_delta(chat: ChatModel, parts: tuple[str, ...], *, size: float = 1.0, relative: bool = True) -> HookedDelta:
    hooked = HookedDelta(chat, make_region(REGION), parts, relative=relative)
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(generator=generator).mul_(size)
    return hooked


def logits(chat: ChatModel) -> Tensor:
    result: Tensor = chat.model(IDS, use_cache=False).logits
    return result


def score(chat: ChatModel) -> Tensor:
    return logits(chat).log_softmax(-1)[0, 3:, 7].mean()


def combinations(family: str) -> list[tuple[str, ...]]:
    return [("write",), ("read0",), ("write", "read0")] + ([] if family == "gpt2" else [("read1",), ("read0", "read1")])


CASES = [(family, parts) for family in ("llama", "qwen2", "gpt2") for parts in combinations(family)]


@pytest.mark.parametrize(("family", "parts"), CASES)
@pytest.mark.parametrize("relative", [True, False])
@torch.no_grad()
def test_the_hooked_forward_is_that_of_the_applied_delta(family: str, parts: tuple[str, ...], relative: bool) -> None:
    chat = make_chat(family)
    plain = logits(chat)
    hooked = random_delta(chat, parts, relative=relative)
    before = snapshot(chat.model)
    with hooked.active():
        acting = logits(chat)
    assert changed_weights(chat.model, before) == []
    with hooked.freeze().applied_to(chat):
        applied = logits(chat)
    torch.testing.assert_close(acting, applied, rtol=1e-4, atol=1e-4)
    assert (acting - plain).abs().max() > 0.05


@pytest.mark.parametrize(("family", "parts"), CASES)
def test_the_gradient_is_that_of_the_weights_themselves(family: str, parts: tuple[str, ...]) -> None:
    chat = make_chat(family)
    hooked = random_delta(chat, parts, relative=False)
    with hooked.active():
        found = torch.autograd.grad(score(chat), list(hooked.free.values()))
    with hooked.freeze().applied_to(chat):
        modules = {
            (site.layer, part): (site.write if part == "write" else site.reads[int(part[-1])].module).weight
            for site in chat.sites
            for part in parts
        }
        gradients = dict(zip(modules, torch.autograd.grad(score(chat), list(modules.values())), strict=True))
    for (layer, _, part), gradient in zip(hooked.free, found, strict=True):
        site = chat.sites[layer]
        whole = gradients[layer, part]
        by_neuron = whole.T if (part == "write") != site.transposed else whole
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, by_neuron[REGION[layer]], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("family", "parts"), [("llama", ("write", "read0", "read1")), ("gpt2", ("write", "read0"))])
def test_the_gradient_is_that_of_finite_differences(family: str, parts: tuple[str, ...]) -> None:
    chat = make_chat(family)
    hooked = random_delta(chat, parts, size=0.5)
    with hooked.active():
        gradients = torch.autograd.grad(score(chat), list(hooked.free.values()))
    generator = torch.Generator().manual_seed(1)
    step = 1e-2
    for free, gradient in zip(hooked.free.values(), gradients, strict=True):
        direction = torch.randn(free.shape, generator=generator)
        direction /= direction.norm()
        sides = []
        for sign in (1.0, -1.0):
            free.data.add_(direction, alpha=sign * step)
            with torch.no_grad(), hooked.active():
                sides.append(float(score(chat).double()))
            free.data.sub_(direction, alpha=sign * step)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02, abs=2e-4)


@torch.no_grad()
def test_a_new_delta_changes_nothing(chat: ChatModel) -> None:
    expected = logits(chat)
    hooked = HookedDelta(chat, make_region(REGION), ("write", "read0"))
    with hooked.active():
        torch.testing.assert_close(logits(chat), expected, rtol=1e-6, atol=1e-6)
    assert all(not change.any() for layer in hooked.freeze().layers for change in layer.change.values())


def test_hooks_are_gone_afterwards_even_when_the_body_raises(chat: ChatModel) -> None:
    hooked = random_delta(chat, ("write", "read0"))
    with torch.no_grad():
        expected = logits(chat)
        with hooked.active():
            assert leftovers(chat.model)
        with pytest.raises(RuntimeError, match="body"), hooked.active():
            raise RuntimeError("body")
        assert leftovers(chat.model) == []
        assert torch.equal(logits(chat), expected)


@pytest.mark.parametrize("relative", [True, False])
def test_the_limit_shortens_what_is_too_long_and_nothing_else(chat: ChatModel, relative: bool) -> None:
    hooked = random_delta(chat, ("write", "read0"), relative=relative)
    # One vector far too long, one well inside.
    for free in hooked.free.values():
        free.data[0] *= 50.0
        free.data[1] *= 1e-3
    before = hooked.freeze()
    hooked.limit(0.7)
    after = hooked.freeze()
    for old, new in zip(before.layers, after.layers, strict=True):
        for part in ("write", "read0"):
            lengths = new.original[part].norm(dim=1)
            ratio = new.change[part].norm(dim=1) / lengths
            was = old.change[part].norm(dim=1) / lengths
            assert (ratio <= 0.7 * (1 + 1e-5)).all()
            torch.testing.assert_close(ratio[was > 0.7], torch.full_like(ratio[was > 0.7], 0.7))
            torch.testing.assert_close(new.change[part][was < 0.7], old.change[part][was < 0.7])
            cosine = torch.nn.functional.cosine_similarity(old.change[part], new.change[part])
            torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("relative", [True, False])
def test_the_norm_penalty_is_the_mean_squared_relative_length(chat: ChatModel, relative: bool) -> None:
    hooked = random_delta(chat, ("write", "read0"), relative=relative)
    ratios = [
        (layer.change[part].norm(dim=1) / layer.original[part].norm(dim=1)).square()
        for layer in hooked.freeze().layers
        for part in ("write", "read0")
    ]
    torch.testing.assert_close(hooked.norm_penalty().detach(), torch.cat(ratios).mean(), rtol=1e-4, atol=1e-6)
    gradients = torch.autograd.grad(hooked.norm_penalty(), list(hooked.free.values()))
    assert all((gradient * free).sum() > 0 for gradient, free in zip(gradients, hooked.free.values(), strict=True))


def test_one_step_is_relative_to_each_vectors_size(llama: ChatModel) -> None:
    with torch.no_grad():
        llama.sites[0].write_vectors()[2] *= 100.0
    hooked = HookedDelta(llama, make_region({0: [2, 5]}), ("write",))
    hooked.free[0, None, "write"].data.fill_(0.1)
    (layer,) = hooked.freeze().layers
    ratio = layer.change["write"].norm(dim=1) / layer.original["write"].norm(dim=1)
    torch.testing.assert_close(ratio, torch.full((2,), 0.1))


def test_a_zero_vector_can_still_be_edited(llama: ChatModel) -> None:
    with torch.no_grad():
        llama.sites[0].write_vectors()[2] = 0.0
    hooked = HookedDelta(llama, make_region({0: [2, 5]}), ("write",))
    hooked.free[0, None, "write"].data.fill_(1.0)
    (layer,) = hooked.freeze().layers
    assert layer.change["write"][0].abs().min() > 0
    hooked.limit(2.0)
    assert torch.isfinite(hooked.norm_penalty())


def test_what_is_frozen_does_not_change_with_further_training(llama: ChatModel) -> None:
    hooked = random_delta(llama, ("write",))
    delta = hooked.freeze()
    kept = delta.layers[0].change["write"].clone()
    hooked.free[0, None, "write"].data.add_(1.0)
    with torch.no_grad():
        llama.sites[0].write_vectors().add_(1.0)
    assert torch.equal(delta.layers[0].change["write"], kept)
    assert torch.equal(
        delta.layers[0].original["write"], make_chat("llama").sites[0].write_vectors()[REGION[0]].detach()
    )


def test_the_lowest_layer_is_the_first_that_changes(llama: ChatModel) -> None:
    assert HookedDelta(llama, make_region({1: [0]}), ("write",)).lowest_layer == 1
    assert HookedDelta(llama, make_region({1: [0], 0: [3]}), ("write",)).lowest_layer == 0


def test_parts_name_matrices_of_the_family() -> None:
    assert part_names(make_chat("llama").sites[0]) == ["write", "read0", "read1"]
    assert part_names(make_chat("gpt2").sites[0]) == ["write", "read0"]
    site = make_chat("llama").sites[0]
    assert torch.equal(vectors(site, "read1"), site.reads[1].module.weight)


@pytest.mark.parametrize("neurons", [{2: [0]}, {0: [24]}], ids=["layer", "neuron"])
def test_a_region_that_the_model_does_not_have_is_refused(llama: ChatModel, neurons: dict[int, list[int]]) -> None:
    with pytest.raises(RegionError, match="model has"):
        HookedDelta(llama, make_region(neurons), ("write",))


@pytest.mark.parametrize("part", ["read1", "banana"])
def test_a_part_that_the_model_does_not_have_is_refused_with_those_it_has(part: str) -> None:
    with pytest.raises(DeltaError, match=rf"{part}.*write, read0"):
        HookedDelta(make_chat("gpt2"), make_region({0: [0]}), ("write", part))


@torch.no_grad()
def test_a_neuron_that_sits_out_adds_nothing_and_the_others_add_more(llama: ChatModel) -> None:
    hooked = HookedDelta(llama, make_region({1: [7]}), ("write",))
    hooked.free[1, None, "write"].data.fill_(0.5)
    outputs: list[Tensor] = []
    with outputs_of([llama.sites[1].write], lambda _, output: outputs.append(output)):
        logits(llama)
    # Listening after the edit's hook, so that what the edit adds is heard.
    with hooked.active(), outputs_of([llama.sites[1].write], lambda _, output: outputs.append(output)):
        logits(llama)
    plain, edited = outputs
    generator = torch.Generator().manual_seed(0)
    acted = 0
    for _ in range(40):
        with (
            hooked.active(dropout=0.6, generator=generator),
            outputs_of([llama.sites[1].write], lambda _, output: outputs.append(output)),
        ):
            logits(llama)
        added = outputs.pop() - plain
        if added.any():
            acted += 1
            torch.testing.assert_close(added, (edited - plain) / 0.4)
    assert 8 <= acted <= 24


@torch.no_grad()
def test_gates_never_sit_out(llama: ChatModel) -> None:
    hooked = random_delta(llama, ("read0",))
    with hooked.active():
        whole = logits(llama)
    with hooked.active(dropout=0.9, generator=torch.Generator().manual_seed(0)):
        assert torch.equal(logits(llama), whole)
