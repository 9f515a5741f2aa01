"""Norms as linear maps: what passes through a norm while its statistics stay what they are."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pkedit.models.hooks import added_outputs

CLOSE = 0.02


def norms_in(block: nn.Module, *, without: nn.Module | None = None) -> list[nn.Module]:
    """The norms of a decoder layer, but for those inside the part `without`."""
    inside = set() if without is None else {id(module) for module in without.modules()}
    return [module for module in block.modules() if "Norm" in type(module).__name__ and id(module) not in inside]


@contextmanager
def held(norms: Sequence[nn.Module], like: Sequence[Tensor]) -> Generator[None]:
    """Passes made inside have the same values, but gradients with the norms' mean squares (variances) held.

    A norm y(x) that does not change when its input is scaled has the Jacobian J_held = J + (y − b) x_cᵀ / ‖x_c‖², with
    b = y(0), and x_c the input, less its mean where the norm takes it away: the second term is the statistics' part.

    Args:
        norms: modules of one input, whatever their class.
        like: for each an input of the device, dtype and last dimension that it takes.
    """
    facts = [_facts(norm, example) for norm, example in zip(norms, like, strict=True)]

    def add(place: int, entering: Tensor, output: Tensor) -> Tensor:
        bias, centred = facts[place] or (None, False)
        if bias is None:
            return output
        fixed = entering.detach().float()
        fixed = fixed - fixed.mean(-1, keepdim=True) if centred else fixed
        square = fixed.square().sum(-1, keepdim=True).clamp_min(1e-20)
        along = (fixed * (entering - entering.detach()).float()).sum(-1, keepdim=True) / square
        return output + ((output.detach() - bias).float() * along).to(output.dtype)

    with added_outputs(norms, add):
        yield


@torch.no_grad()
def _facts(norm: Any, like: Tensor) -> tuple[Tensor, bool] | None:
    """b = y(0), and whether the norm takes the mean away; None where its output grows with its input: no norm."""
    plain = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    bias = norm(torch.zeros_like(like))
    one, two = norm(plain) - bias, norm(2 * plain) - bias
    if not (one - two).abs().max() <= CLOSE * one.abs().max():
        return None
    level = norm(torch.ones_like(like)) - bias
    return bias, bool(level.abs().max() <= CLOSE * one.abs().max())
