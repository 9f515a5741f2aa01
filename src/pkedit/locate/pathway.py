"""Activation pathway tracing (PKE, section 3): what each neuron adds to the preference for the unsafe answer.

With M = log p(y⁻|x) − log p(y⁺|x), a neuron's contribution is Σ_tokens (a − ā)·∂M/∂a: a first-order estimate
of how M falls when the neuron is held at ā, its mean on harmless prompts.
"""

from torch import Tensor

from pkedit.locate.trace import Trace


def contributions(margin: Trace, baseline: Trace) -> tuple[Tensor, ...]:
    """Mean contribution to M over the pairs, per MLP [I]. `margin` is of 2 dialogues for each pair."""
    pairs = len(margin.log_likelihood) / 2
    return tuple(
        (seen.product - mean.mean * seen.gradient).sum(0) / pairs
        for seen, mean in zip(margin.layers, baseline.layers, strict=True)
    )
