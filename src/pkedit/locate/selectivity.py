"""Selectivity: how well a neuron's activation at the decision tokens separates harmful from harmless prompts."""

import torch
from torch import Tensor

from pkedit.locate.trace import Trace


def selectivities(harmful: Trace, harmless: Trace) -> tuple[Tensor, ...]:
    """|mean difference| / floored standard deviation, per MLP [I] (Cohen's d with a variance floor).

    The floor is the MLP's median deviation: without it, neurons that hardly vary at all look perfectly
    selective because of a difference too small to matter.
    """
    scores = []
    for bad, good in zip(harmful.layers, harmless.layers, strict=True):
        difference = bad.decision_mean - good.decision_mean
        variance = (bad.decision_variance + good.decision_variance) / 2
        floor = variance.median()
        scores.append(difference.abs() / torch.sqrt(torch.maximum(variance, floor)).clamp_min(1e-12))
    return tuple(scores)
