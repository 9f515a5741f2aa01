"""Routed experts are modules of their own: same results and gradients, hooks on each, nothing computed in vain."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import EXPERTS, make_architecture, make_architecture_chat
from pkedit.edit.hooked import HookedDelta
from pkedit.locate.region import Region, RegionNeuron
from pkedit.models.chat import ChatModel
from pkedit.models.experts import ExpertMatrix, calls_views, own_experts, release_experts
from pkedit.models.family import find_sites
from pkedit.models.hooks import inputs_of, replaced_activations, scaled_activations
from pkedit.models.precision import arithmetic
from tiny import snapshot

# Halves and turns, biases and a bounded gate, experts shared by all tokens, tokens scaled before they are sent.
ROUTED = (
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "llama4_text",
    "mixtral",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
)
IDS = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=ROUTED)
def routed(request: pytest.FixtureRequest) -> ChatModel:
    return make_architecture_chat(request.param)


@pytest.fixture
def mixtral() -> ChatModel:
    return make_architecture_chat("mixtral")


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    result: Tensor = model(ids, use_cache=False).logits
    return result


def experts_of(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if calls_views(module)]


def test_results_and_gradients_are_the_models_own(routed: ChatModel) -> None:
    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(logits(routed.model).square().mean(), list(routed.model.parameters()))

    found = logits(routed.model), gradients()
    with own_experts(routed.model) as any_there:
        assert any_there
        assert experts_of(routed.model) == []
        expected = logits(routed.model), gradients()
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for one, two in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_the_bounded_gate_of_gpt_oss_is_bounded() -> None:
    chat = make_architecture_chat("gpt_oss")
    with torch.no_grad():
        for experts in experts_of(chat.model):
            experts.gate_up_proj.mul_(20.0)
            experts.gate_up_proj_bias.normal_()
            experts.down_proj_bias.normal_()
    found = logits(chat.model)
    with own_experts(chat.model):
        torch.testing.assert_close(found, logits(chat.model), rtol=1e-4, atol=1e-4)


def test_parameters_and_state_are_the_same_as_without_views(routed: ChatModel) -> None:
    plain = make_architecture(routed.model.config.model_type)
    assert list(routed.model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in routed.model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in routed.model.named_modules()] == [name for name, _ in plain.named_modules()]


def test_what_was_replaced_can_be_put_back(routed: ChatModel) -> None:
    before = logits(routed.model)
    assert experts_of(routed.model)
    release_experts(routed.model)
    assert not any("forward" in vars(module) for module in routed.model.modules())
    torch.testing.assert_close(logits(routed.model), before, rtol=1e-4, atol=1e-5)


def test_finding_the_sites_again_gives_the_same_modules(mixtral: ChatModel) -> None:
    assert [site.write for site in find_sites(mixtral.model)] == [site.write for site in mixtral.sites]


def test_a_copy_of_the_model_computes_with_its_own_weights(mixtral: ChatModel) -> None:
    before = logits(mixtral.model)
    other = copy.deepcopy(mixtral.model)
    with torch.no_grad():
        for experts in experts_of(other):
            experts.down_proj.zero_()
    assert torch.equal(logits(mixtral.model), before)
    assert not torch.allclose(logits(other), before, atol=1e-3)


def test_each_expert_sees_the_tokens_that_were_sent_to_it(routed: ChatModel) -> None:
    """The rows of all experts of a layer are its tokens, each as often as experts are chosen for it."""
    arriving: dict[int, Tensor] = {}
    seen: dict[tuple[int, int | None], tuple[Tensor, Tensor]] = {}
    sites = [site for site in routed.sites if site.expert is not None]
    layer = sites[-1].layer
    own = [site for site in sites if site.layer == layer]

    def receive(place: int, states: Tensor) -> None:
        tokens = own[place].routed_tokens
        assert tokens is not None
        seen[own[place].id] = tokens, states

    with (
        torch.no_grad(),
        inputs_of([own[0].input_module], arriving.__setitem__),
        inputs_of([site.reads[0].module for site in own], receive),
    ):
        logits(routed.model)
    entering = arriving[0].reshape(IDS.numel(), -1)
    count = torch.zeros(IDS.numel(), dtype=torch.long)
    for tokens, states in seen.values():
        assert states.shape == (len(tokens), own[0].hidden)
        assert len(tokens.unique()) == len(tokens)
        count[tokens] += 1
        if routed.model.config.model_type == "llama4_text":
            # These are scaled by the router's score.
            ratio = states / entering[tokens]
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)
        else:
            assert torch.equal(states, entering[tokens])
    assert (count == routed.model.config.num_experts_per_tok).all()
    assert all(site.routed_tokens is None for site in routed.sites if site.expert is None)


def test_an_expert_without_tokens_is_not_called(mixtral: ChatModel) -> None:
    called: list[int] = []
    sites = mixtral.sites_of(0)
    with torch.no_grad(), inputs_of([site.write for site in sites], lambda place, _: called.append(place)):
        logits(mixtral.model, IDS[:1, :1])
    assert len(called) == 2
    others = [site for site in sites if site.expert not in called]
    assert all(site.routed_tokens is not None and len(site.routed_tokens) == 0 for site in others)


def test_hooks_on_one_expert_act_on_it_alone(mixtral: ChatModel) -> None:
    site = mixtral.sites_of(1)[2]
    with torch.no_grad():
        plain = logits(mixtral.model)
        with scaled_activations(site.write, torch.arange(site.neurons), 0.0):
            silenced = logits(mixtral.model)
        with replaced_activations([(site.write, torch.arange(site.neurons), torch.zeros(site.neurons))]):
            held = logits(mixtral.model)
        kept = site.write_vectors().clone()
        site.write_vectors().zero_()
        ablated = logits(mixtral.model)
        site.write_vectors().copy_(kept)
        tokens = site.routed_tokens
    assert tokens is not None
    torch.testing.assert_close(silenced, ablated)
    torch.testing.assert_close(held, ablated)
    # In the last layer, a token that was sent elsewhere keeps its logits.
    moved = (silenced - plain).abs().amax(-1).flatten() > 0
    assert set(moved.nonzero().flatten().tolist()) == set(tokens.tolist())


@pytest.mark.parametrize("parts", [("write",), ("write", "read0", "read1")])
def test_the_hooked_edit_of_experts_is_that_of_their_weights(routed: ChatModel, parts: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    region = Region(
        tuple(
            RegionNeuron(site.layer, index, score=0.0, expert=site.expert)
            for site in routed.sites
            for index in (1, 4, 11)
        ),
        {"given": 1.0},
    )
    hooked = HookedDelta(routed, region, parts, relative=False)
    for free in hooked.free.values():
        free.data.normal_(std=0.3, generator=generator)
    before = snapshot(routed.model)
    plain = logits(routed.model)
    with hooked.active():
        acting = logits(routed.model)
        found = torch.autograd.grad(acting.square().mean(), list(hooked.free.values()), allow_unused=True)
    parameters = [parameter for name, parameter in routed.model.named_parameters()]
    with hooked.freeze().applied_to(routed):
        applied = logits(routed.model)
        whole = torch.autograd.grad(applied.square().mean(), parameters, allow_unused=True)
    torch.testing.assert_close(acting, applied, rtol=1e-3, atol=1e-3)
    assert (acting - plain).abs().max() > 0.05
    assert all(torch.equal(weight, before[name]) for name, weight in routed.model.named_parameters())
    # The gradient of the weights themselves, looked at through the same views.
    with torch.no_grad():
        for parameter, gradient in zip(parameters, whole, strict=True):
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    for (layer, expert, part), gradient in zip(hooked.free, found, strict=True):
        site = routed.places[layer, expert]
        rows = site.write_vectors() if part == "write" else site.read_vectors(int(part[-1]))
        expected = rows[torch.tensor([1, 4, 11])].detach()
        torch.testing.assert_close(
            torch.zeros_like(expected) if gradient is None else gradient, expected, rtol=1e-2, atol=1e-4
        )


def test_mixed_precision_casts_experts_once_and_gives_them_back(mixtral: ChatModel) -> None:
    before = snapshot(mixtral.model)
    plain = logits(mixtral.model)
    with torch.no_grad(), arithmetic(mixtral, "bfloat16", cast_once=True):
        assert mixtral.sites[0].write_weight.dtype == torch.bfloat16
        mixed = logits(mixtral.model).float()
    assert mixtral.sites[0].write_weight.dtype == torch.float32
    assert all(torch.equal(weight, before[name]) for name, weight in mixtral.model.named_parameters())
    # A token near the border between two experts may be sent elsewhere; most are not.
    close = (mixed - plain).abs().amax(-1) < 0.1 * plain.abs().max()
    assert close.float().mean() > 0.7


def test_where_accelerate_has_put_a_forward_it_calls_ours(mixtral: ChatModel) -> None:
    """Its hooks keep the module's own forward under a name, and call it between moving tensors."""
    model = make_architecture("mixtral")
    expected = logits(model)
    calls: list[int] = []
    for module in model.modules():
        if type(module).__name__ == "MixtralExperts":
            module._old_forward = module.forward
            module.forward = lambda *args, module=module: (calls.append(1), module._old_forward(*args))[1]
    sites = find_sites(model)
    seen: list[int] = []
    with torch.no_grad(), inputs_of([site.write for site in sites], lambda place, _: seen.append(place)):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2
    assert len(set(seen)) > EXPERTS
    release_experts(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


def test_a_view_is_no_part_of_the_model(mixtral: ChatModel) -> None:
    views = [module for module in mixtral.model.modules() if isinstance(module, ExpertMatrix)]
    assert views == []
    assert list(mixtral.sites[0].write.parameters()) == []
