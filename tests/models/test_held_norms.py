"""A held norm gives the same values, and the gradients of a linear map with the statistics it had."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pkedit.models.held_norms import held, norms_in
from tiny import make_chat

WIDTH = 12


def filled(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, weight in enumerate(norm.parameters()):
            weight.copy_(torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)))
    return norm


def by_hand(norm: nn.Module, states: Tensor, other: Tensor) -> Tensor:
    """What the norm makes of `other` with the statistics of `states`."""
    centred = isinstance(norm, nn.LayerNorm)
    mean = states.mean(-1, keepdim=True) if centred else 0.0
    size = (states - mean).square().mean(-1, keepdim=True).sqrt()
    moved = other - other.mean(-1, keepdim=True) if centred else other
    gain = 1 + norm.weight if isinstance(norm, GemmaRMSNorm) else norm.weight
    return gain * moved / size + (norm.bias if centred else 0.0)


@pytest.mark.parametrize("kind", [nn.LayerNorm, LlamaRMSNorm, GemmaRMSNorm])
def test_the_gradient_is_that_of_the_linear_map(kind: type[nn.Module]) -> None:
    norm = filled(kind(WIDTH))
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(2, 5, WIDTH, generator=generator).add(0.5).requires_grad_()
    direction, move = torch.randn(2, 2, 5, WIDTH, generator=generator)
    plain = norm(states)
    with held([norm], [torch.zeros(1, WIDTH)]):
        given = norm(states)
    torch.testing.assert_close(given, plain)
    (gradient,) = torch.autograd.grad(given, states, direction)
    moved = by_hand(norm, states.detach(), states.detach() + move) - by_hand(norm, states.detach(), states.detach())
    torch.testing.assert_close((gradient * move).sum(), (direction * moved).sum(), rtol=1e-3, atol=1e-4)
    (true,) = torch.autograd.grad(norm(states), states, direction)
    assert not torch.allclose(true, gradient, rtol=0.01)


def test_what_is_no_norm_keeps_its_own_gradient() -> None:
    other = nn.Linear(WIDTH, WIDTH)
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with held([other], [torch.zeros(1, WIDTH)]):
        (gradient,) = torch.autograd.grad(other(states).sum(), states)
    torch.testing.assert_close(gradient, other.weight.sum(0).expand(3, WIDTH))


def test_the_norms_of_a_layer_leave_out_those_of_its_attention() -> None:
    chat = make_chat("qwen3")
    block = chat.blocks[0]
    assert len(norms_in(block)) == 4
    assert norms_in(block, without=block.self_attn) == [block.input_layernorm, block.post_attention_layernorm]
