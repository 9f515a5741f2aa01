"""Reads many sequences. What some of them begin with, an attack template or a passage, is read once for all these."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pkedit.models.attention import short_reading
from pkedit.models.keys import Keys, has_window, lent, roomy, side_by_side, taken
from pkedit.models.sequences import by_length
from pkedit.models.structure import body_of

# So many places of a stem cost a pass what one token does that is computed: their keys and values are copied.
STEM_PLACES = 6


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave: `final` states, [rows, tokens, hidden], of the tokens of `rows` behind their stems.

    Their keys and values stand in `cache` from place `start` on; a stem's end where they begin.
    """

    rows: tuple[int, ...]
    final: Tensor
    cache: Any
    start: int

    def keys(self, row: int, tokens: int, *, stem: int = 0, from_layer: int = 0) -> Keys:
        """Views of the first so many tokens of the row at this place in `rows`, and of so many of its stem."""
        return taken(self.cache, row, slice(self.start - stem, self.start + tokens), from_layer=from_layer)


def passes(
    model: Any,
    own: Mapping[int, Sequence[int]],
    beginning: Keys | None,
    stems: Mapping[int, Keys] | None = None,
    *,
    tokens: int,
) -> Iterator[Pass]:
    """Reads sequences in batches of similar length, those without a stem first.

    Args:
        model: what reads.
        own: of each sequence, the tokens behind the beginning and its stem; one at least.
        beginning: keys and values of what all of them begin with.
        stems: keys and values of what stands between the beginning and the tokens, for those that have such.
        tokens: padded tokens in one pass.
    """
    stems = stems or {}
    yield from _behind_the_beginning(model, own, [index for index in own if index not in stems], beginning, tokens)
    behind = [index for index in own if index in stems]
    costs = [len(own[index]) + stems[index][0][0].shape[-2] // STEM_PLACES for index in behind]
    for places in by_length(costs, tokens=tokens):
        group = [behind[place] for place in places]
        ids = _padded(model, own, group)
        layers, mask = side_by_side(
            beginning, [stems[index] for index in group], room=ids.shape[1], padding_first=has_window(model)
        )
        mask = mask.to(ids.device)
        read = mask.sum(1, keepdim=True)
        start = mask.shape[1]
        cache = roomy(layers, start)
        with short_reading(model, start + ids.shape[1]):
            final = body_of(model)(
                input_ids=ids,
                attention_mask=pad(mask, (0, ids.shape[1]), value=1),
                position_ids=read + torch.arange(ids.shape[1], device=ids.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        yield Pass(tuple(group), final, cache, start)


def read_stems(
    model: Any, stems: Mapping[int, Sequence[int]], beginning: Keys | None, *, tokens: int
) -> dict[int, Keys]:
    """Keys and values of stems behind the beginning, by their number; copies."""
    return {
        number: [(keys.clone(), values.clone()) for keys, values in one.keys(row, len(stems[number]))]
        for one in passes(model, stems, beginning, tokens=tokens)
        for row, number in enumerate(one.rows)
    }


def _behind_the_beginning(
    model: Any, own: Mapping[int, Sequence[int]], indices: Collection[int], beginning: Keys | None, tokens: int
) -> Iterator[Pass]:
    order = list(indices)
    start = beginning[0][0].shape[-2] if beginning else 0
    for places in by_length([len(own[index]) for index in order], tokens=tokens):
        group = [order[place] for place in places]
        ids = _padded(model, own, group)
        # Padding on the right: under causal attention no real token sees it, so no mask is needed.
        cache = lent(beginning, len(group))
        with short_reading(model, start + ids.shape[1]):
            final = body_of(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        yield Pass(tuple(group), final, cache, start)


def _padded(model: Any, own: Mapping[int, Sequence[int]], group: Sequence[int]) -> Tensor:
    """Token ids, [sequences, tokens], zeros behind the shorter ones."""
    width = max(len(own[index]) for index in group)
    rows = [[*own[index], *[0] * (width - len(own[index]))] for index in group]
    return torch.tensor(rows, device=model.get_input_embeddings().weight.device)
