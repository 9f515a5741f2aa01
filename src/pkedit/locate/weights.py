"""Neuron weight tracking (PKE, section 3): which write vectors a step towards unsafe answers would move most.

For T = 1 the change is −η·∂L/∂W, read off the trace without a second copy of the weights. For T > 1 the
steps are really taken, the change is measured, and the weights are restored bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.locate.trace import Trace
from pkedit.models.chat import ChatModel


@dataclass(frozen=True)
class WeightChange:
    """`neuron[l]`: ‖ΔW[:, i]‖ / ‖W[:, i]‖ of layer l, [I]. `layer[l]`: ‖ΔW‖_F, the paper's quantity.

    Both are per unit of learning rate for T = 1.
    """

    neuron: tuple[Tensor, ...]
    layer: tuple[float, ...]


def weight_change(chat: ChatModel, margin: Trace) -> WeightChange:
    """The change after one probe step (T = 1), from the sketched gradient in the trace of the pairs."""
    pairs = len(margin.log_likelihood) / 2
    neuron, layer = [], []
    for site, seen in zip(chat.sites, margin.layers, strict=True):
        change = seen.sketch.norm(dim=0) / pairs
        neuron.append(change / _lengths(site.write_vectors()))
        layer.append(float(change.norm()))
    return WeightChange(tuple(neuron), tuple(layer))


def weight_change_after_steps(
    chat: ChatModel, accumulate: Callable[[], None], *, steps: int, learning_rate: float
) -> WeightChange:
    """The change after T = `steps` of plain gradient descent on the write weights; they are restored bit for bit.

    It needs a second copy and the gradient of all write weights while it runs.

    Args:
        chat: the model.
        accumulate: adds the gradient of the probe loss to the weights' `.grad`, by `backward()` calls.
        steps: T.
        learning_rate: of the descent.
    """
    weights = [site.write_weight for site in chat.sites]
    before = [weight.detach().clone() for weight in weights]
    gradients = [weight.grad for weight in weights]
    with chat.frozen():
        try:
            for weight in weights:
                weight.requires_grad_(True)
            for _ in range(steps):
                for weight in weights:
                    weight.grad = None
                accumulate()
                with torch.no_grad():
                    for weight in weights:
                        if weight.grad is not None:
                            weight.sub_(weight.grad, alpha=learning_rate)
            return compare_weights(chat, before)
        finally:
            with torch.no_grad():
                for weight, kept, gradient in zip(weights, before, gradients, strict=True):
                    weight.copy_(kept)
                    weight.grad = gradient


def compare_weights(chat: ChatModel, before: Sequence[Tensor]) -> WeightChange:
    """The change from `before` (each layer's write weight as stored) to the model's weights now."""
    neuron, layer = [], []
    for site, old in zip(chat.sites, before, strict=True):
        kept = old if site.transposed else old.T
        change = (site.write_vectors().detach() - kept).float().norm(dim=1)
        neuron.append(change / _lengths(kept))
        layer.append(float(change.norm()))
    return WeightChange(tuple(neuron), tuple(layer))


def _lengths(write_vectors: Tensor) -> Tensor:
    """Lengths of the write vectors; a zero vector counts as the layer's mean length."""
    lengths = write_vectors.detach().float().norm(dim=1)
    return torch.where(lengths > 0, lengths, lengths.mean())
