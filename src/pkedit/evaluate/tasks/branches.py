"""Log-likelihoods of several continuations of one text, which is read only once.

A row holds the tokens that all continuations of a text begin with (the trunk), then what differs of each (the
branches) behind one another. The attention mask lets a branch see the trunk and itself, and its positions go on
from the trunk, so that each token gets what it would get alone. What all texts begin with, a chat template's system
message, is read once for all of them.

For multiple-choice questions this takes about a quarter of the tokens that one sequence per choice takes, and logits
are computed at the last tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pkedit.models.keys import Keys, lent, read_beginning
from pkedit.models.sequences import shared_beginning
from pkedit.models.structure import body_of

# Implementations that take a mask of which token sees which; the others know only padding.
MASKED_ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Branching:
    """A text, at least one token, and its continuations, at least one token each."""

    text: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def trunk(self) -> tuple[int, ...]:
        """What all continuations begin with, the text included; at least one token less than the shortest."""
        limit = min(map(len, self.continuations)) - 1
        first = self.continuations[0]
        same = next((n for n in range(limit) if any(other[n] != first[n] for other in self.continuations)), limit)
        return self.text + first[:same]

    @property
    def longest(self) -> int:
        """Tokens of the text with its longest continuation."""
        return len(self.text) + max(map(len, self.continuations))


def reads_branches(model: Any, branching: Branching) -> bool:
    """Whether the model can be asked this way: its attention takes a mask, no token is out of its window, and it is
    told each token's position: ALiBi counts what it sees, and here a branch does not see the one before it."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or branching.longest
    masked = model.config._attn_implementation in MASKED_ATTENTION
    positions = "position_ids" in signature(body_of(model).forward).parameters and not getattr(config, "alibi", False)
    return masked and positions and branching.longest <= window


@torch.inference_mode()
def score_branches(model: Any, asked: Sequence[Branching], *, batch_size: int) -> list[list[tuple[float, bool]]]:
    """For each text and each continuation: log p, and whether greedy decoding would have written it.

    Args:
        model: a causal language model.
        asked: texts with continuations; what all the texts begin with is found and read once.
        batch_size: texts at once.
    """
    scores: dict[int, list[tuple[float, bool]]] = {}
    shared = shared_beginning([item.text for item in asked])
    beginning = read_beginning(model, asked[0].text[:shared]) if shared else None
    rows = [_Row(item, shared) for item in asked]
    # Similar lengths together, and the longest first, so that a lack of memory shows at once.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        found = _score_batch(model, [rows[index] for index in group], beginning)
        scores.update(zip(group, found, strict=True))
    return [scores[index] for index in range(len(asked))]


class _Row:
    """Where each token of a text with its continuations stands, behind the `shared` tokens that are read already."""

    def __init__(self, asked: Branching, shared: int) -> None:
        trunk = asked.trunk
        self.shared = shared
        self.ids = list(trunk[shared:])
        self.positions = list(range(shared, len(trunk)))
        self.branches: list[tuple[int, int]] = []
        # For each continuation: the places of the states that predict its tokens, and these tokens.
        self.predictions: list[tuple[list[int], tuple[int, ...]]] = []
        self.first = len(asked.text) - shared - 1
        self.trunk = len(self.ids)
        for continuation in asked.continuations:
            own = (asked.text + continuation)[len(trunk) : -1]
            start = len(self.ids)
            self.ids += own
            self.positions += range(len(trunk), len(trunk) + len(own))
            self.branches.append((start, len(self.ids)))
            places = [*range(self.first, self.trunk), *range(start, len(self.ids))]
            self.predictions.append((places, continuation))

    def __len__(self) -> int:
        return len(self.ids)

    def visible(self, width: int) -> Tensor:
        """Which token sees which, padded on the left: [width, shared + width]."""
        padding = width - len(self)
        sees = torch.ones(width, width, dtype=torch.bool).tril()
        sees[:, :padding] = False
        for start, end in self.branches:
            sees[padding + start : padding + end, padding + self.trunk : padding + start] = False
        # Padding sees itself: a token that saw nothing would be NaN.
        sees |= torch.eye(width, dtype=torch.bool)
        return torch.cat([torch.ones(width, self.shared, dtype=torch.bool), sees], dim=1)


def _score_batch(model: Any, rows: Sequence[_Row], beginning: Keys | None) -> list[list[tuple[float, bool]]]:
    device = model.get_input_embeddings().weight.device
    width = max(map(len, rows))
    padding = [width - len(row) for row in rows]
    ids = torch.tensor([[0] * pad + row.ids for row, pad in zip(rows, padding, strict=True)])
    positions = torch.tensor([[0] * pad + row.positions for row, pad in zip(rows, padding, strict=True)])
    visible = torch.stack([row.visible(width) for row in rows]).unsqueeze(1)
    mask = torch.zeros(visible.shape, dtype=model.dtype).masked_fill(~visible, torch.finfo(model.dtype).min)
    # Rows end together, so that the states which predict something are the last ones of each.
    kept = max(len(row) - row.first for row in rows)
    logits = model(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        attention_mask=mask.to(device),
        past_key_values=lent(beginning, len(rows)),
        use_cache=True,
        logits_to_keep=kept,
    ).logits.float()
    total = logits.logsumexp(-1).cpu()
    best = logits.argmax(-1).cpu()
    scores = []
    for number, row in enumerate(rows):
        found = []
        for places, tokens in row.predictions:
            columns = torch.tensor(places) - len(row) + kept
            targets = torch.tensor(tokens)
            likely = logits[number, columns.to(device), targets.to(device)].cpu() - total[number, columns]
            found.append((float(likely.sum()), bool((best[number, columns] == targets).all())))
        scores.append(found)
    return scores
