"""How strong an edit has to be: the smallest multiple of δ that makes the model refuse prompts it was not trained on.

Training ends with whatever margin the last steps left. On prompts held out from it, δ is scaled until the wanted
share is refused and no further, for what lies beyond costs refusals of harmless prompts. It also lets edits be
compared at equal success.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pkedit.edit.delta import Delta
from pkedit.models.batches import dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.prompts.types import ContrastPair
from pkedit.settings import EditSettings

STRENGTHS = tuple(round(0.5 + 0.05 * step, 2) for step in range(21))


@dataclass(frozen=True)
class Strength:
    """The multiple of δ that was chosen, and the share of held-out pairs whose refusal then begins greedily."""

    factor: float
    refused: float


def choose_strength(
    chat: ChatModel, delta: Delta, held_out: Sequence[ContrastPair], settings: EditSettings
) -> Strength:
    """The smallest of `STRENGTHS` at which `settings.strength_target` of the pairs are refused; else the best one.

    A pair counts as refused when each of the `first_tokens` that open its safe answer is the likeliest one
    behind those before it: greedy decoding then writes that opening.
    """
    opening = max(settings.first_tokens, 1)
    dialogues = [dialogue(chat, pair.prompt.text, pair.safe, limit=opening, ended=False) for pair in held_out]
    everyone = list(range(len(dialogues)))
    with chat.frozen(), torch.no_grad():
        cache = FrozenPrompts(
            chat,
            dialogues,
            min(layer.layer for layer in delta.layers),
            first_tokens=0,
            first_weight=1.0,
            tokens_per_batch=settings.tokens_per_batch,
        )
        cache.prepare(everyone)
        groups = [(group, cache.batch(group)) for group in cache.groups(everyone)]
        tried = []
        for factor in STRENGTHS:
            refused = 0
            with (delta * factor).applied_to(chat):
                for group, batch in groups:
                    likeliest = chat.head(batch.at_answers(cache.final_states(group, batch))).argmax(-1)
                    missed = batch.per_dialogue((likeliest != batch.target).float())
                    refused += int((missed == 0).sum())
            tried.append(Strength(factor, refused / len(dialogues)))
            if tried[-1].refused >= settings.strength_target:
                return tried[-1]
    return max(tried, key=lambda strength: strength.refused)
