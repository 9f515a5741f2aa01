"""Neuron weight tracking (PKE, section 3): which write vectors a step towards unsafe answers would move most.

For T = 1 the change is −η·∂L/∂W, read off the trace without a second copy of the weights. For T > 1 the
steps are really taken, the change is measured, and the weights are restored bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.errors import ModelLoadError
from pkedit.locate.trace import Trace
from pkedit.models.chat import ChatModel
from pkedit.models.experts import stored_in


@dataclass(frozen=True)
class WeightChange:
    """`neuron`: ‖ΔW[:, i]‖ / ‖W[:, i]‖ of each MLP, [I]. `layer[l]`: ‖ΔW‖_F of layer l, the paper's quantity.

    Both are per unit of learning rate for T = 1.
    """

    neuron: tuple[Tensor, ...]
    layer: tuple[float, ...]


def weight_change(chat: ChatModel, margin: Trace) -> WeightChange:
    """The change after one probe step (T = 1), from the sketched gradient in the trace of the pairs."""
    pairs = len(margin.log_likelihood) / 2
    neuron, total = [], []
    for site, seen in zip(chat.sites, margin.layers, strict=True):
        change = seen.sketch.norm(dim=0) / pairs
        neuron.append(change / lengths(site.write_vectors()))
        total.append(float(change.norm()))
    return WeightChange(tuple(neuron), _by_layer(chat, total))


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

    Raises:
        ModelLoadError: the weights are quantised.
    """
    packed = next((site.name for site in chat.sites if site.quantised), None)
    if packed is not None:
        raise ModelLoadError(
            f"{packed}: probe steps move the weights, and those are quantised; leave probe_steps at 1, which needs "
            "their gradient alone"
        )
    weights = stored_in([site.write for site in chat.sites])
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
            stored = dict(zip(map(id, weights), before, strict=True))
            return compare_weights(chat, [site.own_part(stored[id(site.write_parameter)]) for site in chat.sites])
        finally:
            with torch.no_grad():
                for weight, kept, gradient in zip(weights, before, gradients, strict=True):
                    weight.copy_(kept)
                    weight.grad = gradient


def compare_weights(chat: ChatModel, before: Sequence[Tensor]) -> WeightChange:
    """The change from `before` (each MLP's write weight as stored) to the model's weights now."""
    neuron, total = [], []
    for site, old in zip(chat.sites, before, strict=True):
        kept = old if site.transposed else old.T
        change = (site.write_vectors().detach() - kept).float().norm(dim=1)
        neuron.append(change / lengths(kept))
        total.append(float(change.norm()))
    return WeightChange(tuple(neuron), _by_layer(chat, total))


def _by_layer(chat: ChatModel, totals: Sequence[float]) -> tuple[float, ...]:
    """‖ΔW‖_F over all MLPs of each layer, from that of each."""
    layers: list[list[float]] = [[] for _ in range(chat.layers)]
    for site, total in zip(chat.sites, totals, strict=True):
        layers[site.layer].append(total)
    return tuple(math.hypot(*own) for own in layers)


def lengths(write_vectors: Tensor) -> Tensor:
    """Lengths of the write vectors; a zero vector counts as the mean length."""
    lengths = write_vectors.detach().float().norm(dim=1)
    return torch.where(lengths > 0, lengths, lengths.mean())
