"""Edits of a stream as deltas of one base, and their sum: taking one out is adding the others, bit for bit.

An edit is learnt on a model that has the earlier ones in it, but kept as a change of the base's own vectors. Floating
point sums depend on their order, so they are always formed in that of the edits.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch

from pkedit.edit.base import base_facts
from pkedit.edit.delta import Delta, vectors
from pkedit.models.chat import ChatModel


def nothing(chat: ChatModel) -> Delta:
    """The edit that changes nothing, for this base."""
    return Delta((), chat.name, base_facts(chat))


def on_base(chat: ChatModel, delta: Delta) -> Delta:
    """The same change, with the originals of the model as it is now, which is the unedited one."""
    layers = []
    for layer in delta.layers:
        site = chat.places[layer.site]
        at = layer.neurons.to(site.device)
        originals = {part: vectors(site, part).detach()[at].cpu().clone() for part in layer.original}
        layers.append(replace(layer, original=originals))
    return replace(delta, layers=tuple(layers))


def added(deltas: Iterable[Delta], first: Delta) -> Delta:
    """`first` and the deltas behind it as one, added from the left."""
    total = first
    for delta in deltas:
        total = total + delta
    return total


def largest_change(delta: Delta) -> float:
    """The largest ‖δ_i‖ / ‖w_i‖ of any vector; 0 of an edit that changes nothing."""
    ratios = [
        layer.change[part].norm(dim=1) / original.float().norm(dim=1).clamp_min(1e-12)
        for layer in delta.layers
        for part, original in layer.original.items()
    ]
    return float(torch.cat(ratios).max()) if ratios else 0.0
