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
        scores.append(difference.abs() / floored_deviation(variance))
    return tuple(scores)


def floored_deviation(variance: Tensor) -> Tensor:
    """The standard deviation of each neuron of a layer, at least the layer's median one: [I]."""
    return torch.sqrt(torch.maximum(variance, variance.median())).clamp_min(1e-12)
