"""The loss of an edit, term by term: pure functions over log-likelihoods and logits.

hinge(NLL(y⁺|x) − τ) + α · bounded unlikelihood of y⁻ + β · KL(original ‖ edited) + γ‖δ‖²
"""

import torch
from torch import Tensor


def hinge(negative_log_likelihood: Tensor, threshold: float) -> Tensor:
    """max(NLL − τ, 0): no pull once the safe answer is likely enough, so the edit stops growing."""
    return (negative_log_likelihood - threshold).clamp_min(0.0)


def unlikelihood(log_likelihood: Tensor, bound: float) -> Tensor:
    """−log(1 − p), at most where p falls below `bound`: zero there (Welleck et al. 2020, eq. 4, bounded).

    Args:
        log_likelihood: log p of each unsafe token, at most 0.
        bound: a probability; tokens less likely than that are left alone.
    """
    # log(1 − p) is infinite at p = 1, so its value is held just below. Only the value: a clamp would end the
    # gradient where the model is surest of the unsafe token.
    held = log_likelihood - (log_likelihood + 1e-4).clamp_min(0.0).detach()
    floor = -torch.log1p(torch.tensor(-bound))
    return (-torch.log(-torch.expm1(held)) - floor).clamp_min(0.0)
