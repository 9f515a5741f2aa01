"""Reads many sequences. What some of them begin with, an attack template or a passage, is read once for all these."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pkedit.models.attention import short_reading
from pkedit.models.keys import Keys, has_window, lent, roomy, side_by_side, taken
from pkedit.models.sequences import by_length
from pkedit.models.structure import body_of
from pkedit.models.unchanged import Known, UnchangedLayers

# So many places of a stem cost a pass what one token does that is computed: their keys and values are copied.
STEM_PLACES = 6


@dataclass(frozen=True, eq=False)
class Remembered:
    """What is remembered of the lowest layers, and under which name of each sequence; all its tokens must be in it."""

    layers: UnchangedLayers
    names: Mapping[int, Hashable]


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave: `final` states, [rows, tokens, hidden], of the tokens of `rows` behind their stems.

    Their keys and values stand in `cache` from place `start` on; a stem's end where they begin. Where the lowest layers
    did not run, theirs are in `known`.
    """

    rows: tuple[int, ...]
    final: Tensor
    cache: Any
    start: int
    known: tuple[Known, ...] = ()

    def keys(self, row: int, tokens: int, *, from_layer: int = 0) -> Keys:
        """Views of the first so many tokens of the row at this place in `rows`; where layers did not run, all of it."""
        lowest = self.known[row].keys if self.known else []
        ran = taken(self.cache, row, slice(self.start, self.start + tokens), from_layer=len(lowest))
        return [*lowest, *ran][from_layer:]

    def copied(self, row: int, tokens: int) -> Keys:
        """The same as copies, so that the pass can be forgotten; what is remembered anyway is not copied."""
        skipped = len(self.known[row].keys) if self.known else 0
        own = self.keys(row, tokens)
        return [*own[:skipped], *((keys.clone(), values.clone()) for keys, values in own[skipped:])]


def passes(
    model: Any,
    own: Mapping[int, Sequence[int]],
    beginning: Keys | None,
    stems: Mapping[int, Keys] | None = None,
    *,
    tokens: int,
    remembered: Remembered | None = None,
) -> Iterator[Pass]:
    """Reads sequences in batches of similar length, those without a stem first.

    Args:
        model: what reads.
        own: of each sequence, the tokens behind the beginning and its stem; one at least.
        beginning: keys and values of what all of them begin with.
        stems: keys and values of what stands between the beginning and the tokens, for those that have such.
        tokens: padded tokens in one pass.
        remembered: the lowest layers run only for sequences that they have not read before.
    """
    stems = stems or {}
    first = beginning[0][0].shape[-2] if beginning else 0
    bare = [index for index in own if index not in stems]
    for places in by_length([len(own[index]) for index in bare], tokens=tokens):
        group = [bare[place] for place in places]
        # Padding on the right: under causal attention no real token sees it, so no mask is needed.
        yield _pass(model, own, group, lent(beginning, len(group)), first, remembered)
    behind = [index for index in own if index in stems]
    costs = [len(own[index]) + stems[index][0][0].shape[-2] // STEM_PLACES for index in behind]
    for places in by_length(costs, tokens=tokens):
        group = [behind[place] for place in places]
        width = max(len(own[index]) for index in group)
        layers, mask = side_by_side(
            beginning, [stems[index] for index in group], room=width, padding_first=has_window(model)
        )
        start = mask.shape[1]
        yield _pass(model, own, group, roomy(layers, start), start, remembered, mask)


def read_stems(
    model: Any,
    stems: Mapping[int, Sequence[int]],
    beginning: Keys | None,
    *,
    tokens: int,
    remembered: Remembered | None = None,
) -> dict[int, Keys]:
    """Keys and values of stems behind the beginning, by their number; copies."""
    return {
        number: one.copied(row, len(stems[number]))
        for one in passes(model, stems, beginning, tokens=tokens, remembered=remembered)
        for row, number in enumerate(one.rows)
    }


def _pass(
    model: Any,
    own: Mapping[int, Sequence[int]],
    group: Sequence[int],
    cache: Any,
    start: int,
    remembered: Remembered | None,
    mask: Tensor | None = None,
) -> Pass:
    """One pass over the tokens of `group`, of what stands before them `mask` says what counts."""
    ids = _padded(model, own, group)
    masked: dict[str, Tensor] = {}
    if mask is not None:
        mask = mask.to(ids.device)
        places = mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)
        masked = {"attention_mask": pad(mask, (0, ids.shape[1]), value=1), "position_ids": places}

    def run() -> Tensor:
        with short_reading(model, start + ids.shape[1]):
            states: Tensor = body_of(model)(
                input_ids=ids, past_key_values=cache, use_cache=True, **masked
            ).last_hidden_state
        return states

    if remembered is None:
        return Pass(tuple(group), run(), cache, start)
    layers, names = remembered.layers, [remembered.names[index] for index in group]
    known = layers.known(names)
    if known is not None:
        with layers.skipped(known):
            return Pass(tuple(group), run(), cache, start, tuple(known))
    with layers.recorded() as seen:
        one = Pass(tuple(group), run(), cache, start)
    # None leave where no layer is below the edit.
    for states in seen:
        for row, (name, index) in enumerate(zip(names, group, strict=True)):
            layers.remember(name, one.keys(row, len(own[index])), states[row, : len(own[index])])
    return one


def _padded(model: Any, own: Mapping[int, Sequence[int]], group: Sequence[int]) -> Tensor:
    """Token ids, [sequences, tokens], zeros behind the shorter ones."""
    width = max(len(own[index]) for index in group)
    rows = [[*own[index], *[0] * (width - len(own[index]))] for index in group]
    return torch.tensor(rows, device=model.get_input_embeddings().weight.device)
