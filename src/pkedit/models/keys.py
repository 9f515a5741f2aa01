"""Attention keys and values that are computed once and used again.

Under causal attention a token's keys and values depend on the tokens before it alone. So those of a beginning
that all prompts share (a chat template's system message) serve every prompt, and those of a prompt serve every
answer to it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pkedit.models.structure import body_of

# Keys and values of one sequence, layer by layer, each [heads, tokens, width].
Keys = list[tuple[Tensor, Tensor]]


def read_beginning(model: Any, ids: Sequence[int]) -> Keys:
    """The keys and values of one sequence in every layer."""
    cache = DynamicCache()
    tokens = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    body_of(model)(input_ids=tokens, past_key_values=cache, use_cache=True)
    return taken(cache, 0)


def has_window(model: Any) -> bool:
    """Whether some layers of the model attend to the last so many places only."""
    return any(DynamicCache(config=model.config).is_sliding)


def taken(cache: DynamicCache, row: int, tokens: slice = slice(None), *, from_layer: int = 0) -> Keys:
    """The keys and values of some tokens of one row, in the layers from `from_layer` on, as views."""
    layers: list[Any] = cache.layers[from_layer:]
    return [(layer.keys[row, :, tokens], layer.values[row, :, tokens]) for layer in layers]


def lent(beginning: Keys | None, rows: int) -> DynamicCache:
    """A cache in which `rows` sequences have this beginning, without a copy; an empty one where there is none."""
    return DynamicCache([tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in beginning or []])


def side_by_side(
    beginning: Keys | None,
    own: Sequence[Keys],
    *,
    stems: Sequence[Keys | None] | None = None,
    room: int = 0,
    forget: bool = False,
    padding_first: bool = False,
) -> tuple[Keys, Tensor]:
    """Several sequences as one batch: the shared beginning, padding, each one's stem and its own, `room` tokens.

    Args:
        beginning: what all sequences begin with, in the layers of `own`.
        own: the keys and values of each sequence behind the beginning, or behind its stem.
        stems: what stands between the beginning and each one's own, if there is such.
        room: places left free at the end.
        forget: `own` is emptied layer by layer, so that nothing is in memory twice.
        padding_first: the padding stands before the beginning, so that attention to the last so many places sees
            tokens in all of them.

    Returns:
        Keys and values of each layer, [rows, heads, tokens, width], and the mask without the room, [rows, tokens],
        0 at the padding.
    """
    shared = beginning[0][0].shape[-2] if beginning else 0
    stems = stems or [None] * len(own)
    own_lengths = [keys[0][0].shape[-2] for keys in own]
    lengths = [length + (stem[0][0].shape[-2] if stem else 0) for length, stem in zip(own_lengths, stems, strict=True)]
    width = shared + max(lengths)
    mask = torch.ones(len(own), width, dtype=torch.long, device=own[0][0][0].device)
    # Where the padding of each row lies.
    gaps = [slice(0, width - shared - length) if padding_first else slice(shared, width - length) for length in lengths]
    for row, gap in enumerate(gaps):
        mask[row, gap] = 0
    layers: Keys = []
    for number in range(len(own[0])):
        # From the front where they are forgotten: what is left begins with the layer that comes next.
        of_layer = [keys.pop(0) if forget else keys[number] for keys in own]
        merged = []
        for which in range(2):
            heads, _, size = of_layer[0][which].shape
            states = of_layer[0][which].new_empty(len(own), heads, width + room, size)
            if beginning and not padding_first:
                states[:, :, :shared] = beginning[number][which]
            for row, parts in enumerate(of_layer):
                if beginning and padding_first:
                    states[row, :, gaps[row].stop : gaps[row].stop + shared] = beginning[number][which]
                # Zeros, not whatever was in memory: even without attention, a NaN would spread.
                states[row, :, gaps[row]] = 0.0
                stem = stems[row]
                if stem is not None:
                    states[row, :, width - lengths[row] : width - own_lengths[row]] = stem[number][which]
                states[row, :, width - own_lengths[row] : width] = parts[which]
            merged.append(states)
        layers.append((merged[0], merged[1]))
    return layers, mask


def narrow(layer: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Copies. In mixed precision values have the narrower format; the keys, which are multiplied in it all the same,
    are kept in it too."""
    keys, values = layer
    return keys.to(values.dtype, copy=True), values.clone()


def roomy(layers: Keys, filled: int) -> DynamicCache:
    """A cache over `layers`, [rows, heads, tokens, width], of which `filled` tokens count and the others are room."""
    cache = DynamicCache()
    cache.layers.extend(RoomyLayer(keys, values, filled) for keys, values in layers)
    return cache


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for the tokens to come. Growing by concatenation would copy everything at each step."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        """`keys` and `values`, [rows, heads, tokens, width], of which `filled` tokens count."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self._room = (keys, values)
        self._filled = filled
        self.keys, self.values = self._counting()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Adds tokens behind those that count, and returns all that count now."""
        grown = self._filled + key_states.shape[-2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self._filled : grown] = states
        self._filled = grown
        self.keys, self.values = self._counting()
        return self._counting()

    def _counting(self) -> tuple[Tensor, Tensor]:
        keys, values = self._room
        return keys[:, :, : self._filled], values[:, :, : self._filled]
