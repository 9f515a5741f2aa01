"""Every term of the loss has the gradient it should have, and none where it should not."""

import math

import pytest
import torch
from torch import Tensor

from pkedit.edit.objective import hinge, unlikelihood
from pkedit.models.batches import log_likelihoods


def test_the_hinge_pulls_above_the_threshold_and_lets_go_below() -> None:
    loss = torch.tensor([0.1, 0.3, 2.0], requires_grad=True)
    value = hinge(loss, 0.25)
    assert value.tolist() == pytest.approx([0.0, 0.05, 1.75])
    (gradient,) = torch.autograd.grad(value.sum(), loss)
    assert gradient.tolist() == [0.0, 1.0, 1.0]


def test_the_hinge_has_the_gradient_of_finite_differences() -> None:
    loss = torch.tensor([0.1, 0.6, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: hinge(values, 0.25), (loss,))


def test_unlikelihood_is_minus_log_of_one_minus_p_above_the_bound() -> None:
    probability = torch.tensor([0.06, 0.3, 0.9])
    expected = [-math.log(1 - p) + math.log(1 - 0.05) for p in probability.tolist()]
    assert unlikelihood(probability.log(), 0.05).tolist() == pytest.approx(expected, rel=1e-4)


def test_unlikelihood_leaves_tokens_below_the_bound_alone() -> None:
    likelihood = torch.tensor([0.001, 0.02, 0.049]).log().requires_grad_()
    value = unlikelihood(likelihood, 0.05)
    assert value.tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(value.sum(), likelihood)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_unlikelihood_is_continuous_at_the_bound_and_rises_with_p() -> None:
    probability = torch.linspace(0.01, 0.999, 400)
    value = unlikelihood(probability.log(), 0.05)
    assert (value.diff() >= 0).all()
    assert float(unlikelihood(torch.tensor(0.0501).log(), 0.05)) < 2e-4


def test_unlikelihood_has_the_gradient_of_finite_differences() -> None:
    likelihood = torch.tensor([0.02, 0.2, 0.7, 0.99], dtype=torch.float64).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: unlikelihood(values, 0.05), (likelihood,))


@pytest.mark.parametrize("margin", [5.0, 9.0, 12.0, 40.0])
def test_unlikelihood_of_a_nearly_certain_token_is_finite_and_its_gradient_never_wrong(margin: float) -> None:
    logits = torch.zeros(1, 5)
    logits[0, 2] = margin
    logits.requires_grad_()

    def loss(values: Tensor) -> Tensor:
        return unlikelihood(log_likelihoods(values, [2]), 0.05).sum()

    value = loss(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert value > 2.0
    assert gradient[0, 2] >= 0


@pytest.mark.parametrize("margin", [9.0, 12.0])
def test_a_nearly_certain_unsafe_token_is_still_pushed_down(margin: float) -> None:
    # Where the model is surest of the unsafe opening, the term must not let go of it.
    logits = torch.zeros(1, 5)
    logits[0, 2] = margin
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(unlikelihood(log_likelihoods(logits, [2]), 0.05).sum(), logits)
    assert gradient[0, 2] > 1e-3
