"""Whether what one pass has computed can serve another, tried on the loaded model.

Generation, and training with frozen prompts, read the beginning of a prompt once and lend it to many rows of
different lengths. That needs attention whose cache is keys and values, and positions that can be given. A model that
remembers otherwise, or counts its positions in another way, is found out here, whatever it is called, and then reads
every sequence from its first token. Training also starts at the lowest edited layer, from the states that enter
there. A model whose upper layers take more than these from the lower ones is run from its first layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pkedit.errors import first_line
from pkedit.models.attention import few_queries
from pkedit.models.cut import Cut
from pkedit.models.keys import Keys, has_window, lent, read_beginning, roomy, side_by_side, taken
from pkedit.models.structure import body_of

# Tokens that both rows begin with, of each row behind them, and at the end. What a row goes wrong by where positions
# are counted otherwise grows with the padding that the longer one causes; rounding does not.
BEGINNING, OWN, ANSWER = 5, (32, 2), 4
# How far final states may be off, of their length, beyond twice what the model's own cache makes of rounding.
TOLERANCE = {torch.float32: 0.01}
COARSE = 0.15
# What a model does that was never meant to be used so is not ours to foresee.
EXPECTED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@torch.no_grad()
def cannot_reuse(model: Any) -> str | None:
    """Why a cache made in one pass gives other final states in the next than no cache does; None if it is the same."""
    embedding = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    length = BEGINNING + max(OWN) + ANSWER
    ids = torch.randint(len(embedding), (len(OWN), length), generator=generator).to(embedding.device)
    ids[1, :BEGINNING] = ids[0, :BEGINNING]
    rows = [ids[row : row + 1, : BEGINNING + own + ANSWER] for row, own in enumerate(OWN)]
    try:
        reused = _with_lent_cache(model, ids)
        usual = [_with_own_cache(model, row) for row in rows]
    except EXPECTED as error:
        return f"its cache cannot be lent from one pass to another ({first_line(error)})"
    allowed = TOLERANCE.get(embedding.dtype, COARSE)
    for number, row in enumerate(rows):
        whole = body_of(model)(input_ids=row, use_cache=False).last_hidden_state[0, -ANSWER:]
        off, rounding = (_off(states, whole) for states in (reused[number], usual[number]))
        # Written so that NaN fails.
        if not off <= allowed + 2 * rounding:
            return f"its final states were off by {100 * off:.0f} % where a cache was lent"
    return None


@torch.no_grad()
def cannot_skip(model: Any, blocks: Sequence[nn.Module]) -> str | None:
    """Why the upper half of the layers gives other final states from those that enter it than the whole model does."""
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=embedding.device).remainder(len(embedding)).unsqueeze(0)
    below = blocks[: len(blocks) // 2]
    cut = Cut(below)
    with cut.recorded() as seen:
        whole = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    if not below:
        return None
    try:
        with cut.entered(seen[0]):
            upper = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    except EXPECTED as error:
        return f"its upper layers cannot run alone ({first_line(error)})"
    off = _off(upper[0], whole[0])
    return (
        None if off <= TOLERANCE.get(embedding.dtype, COARSE) else f"its upper layers alone were {100 * off:.0f} % off"
    )


def _with_lent_cache(model: Any, ids: Tensor) -> Tensor:
    """Final states of the last tokens of each row, [2, ANSWER, hidden], read in three parts."""
    beginning = read_beginning(model, ids[0, :BEGINNING].tolist())
    cache = lent(beginning, len(OWN))
    body_of(model)(input_ids=ids[:, BEGINNING : BEGINNING + max(OWN)], past_key_values=cache, use_cache=True)
    keys: list[Keys] = [taken(cache, row, slice(BEGINNING, BEGINNING + own)) for row, own in enumerate(OWN)]
    layers, mask = side_by_side(beginning, keys, room=ANSWER, padding_first=has_window(model))
    mask = mask.to(ids.device)
    read = torch.tensor(OWN, device=ids.device) + BEGINNING
    last = torch.stack([ids[row, start : start + ANSWER] for row, start in enumerate(read.tolist())])
    with few_queries(model):
        states: Tensor = body_of(model)(
            input_ids=last,
            attention_mask=torch.nn.functional.pad(mask, (0, ANSWER), value=1),
            position_ids=read.unsqueeze(1) + torch.arange(ANSWER, device=ids.device),
            past_key_values=roomy(layers, mask.shape[1]),
            use_cache=True,
        ).last_hidden_state
    return states


def _with_own_cache(model: Any, row: Tensor) -> Tensor:
    """The same of one row, [ANSWER, hidden], as the model itself goes on from what it has read."""
    cache = DynamicCache(config=model.config)
    body_of(model)(input_ids=row[:, :-ANSWER], past_key_values=cache, use_cache=True)
    states: Tensor = body_of(model)(input_ids=row[:, -ANSWER:], past_key_values=cache, use_cache=True).last_hidden_state
    return states[0]


def _off(states: Tensor, whole: Tensor) -> float:
    """By how much of their length the states are off, the mean: rounding may send single tokens to other experts."""
    return float(((states - whole).float().norm(dim=-1) / whole.float().norm(dim=-1)).mean())
