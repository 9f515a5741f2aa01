"""Utility guard: what each neuron adds to the model's own good answers.

A neuron that matters there is a bad place to edit.
"""

from torch import Tensor

from pkedit.locate.trace import Trace


def utilities(harmless: Trace) -> tuple[Tensor, ...]:
    """Mean |Σ_tokens (a − ā)·∂log p/∂a| over harmless dialogues, per MLP [I].

    Absolute per dialogue, so the trace must have a row for each: a neuron that helps one answer and hurts another
    matters to both.
    """
    return tuple((seen.product - seen.mean * seen.gradient).abs().mean(0) for seen in harmless.layers)
