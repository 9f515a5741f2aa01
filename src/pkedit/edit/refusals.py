"""Chooses the refusal phrasings that come most naturally to a model.

Targets that begin in seven different ways cannot all be likely: at the first token, where the model decides,
their likelihood is bounded by how often each is used, and the loss pulls in seven directions. So the safe
answers of one edit share one opening, the one the model itself finds likeliest, and differ after it.
"""

from collections.abc import Sequence

import torch

from pkedit.errors import TooFewPairsError
from pkedit.models.batches import answer_logits, dialogue, log_likelihoods, make_batch
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import Prompt


def natural_refusals(
    chat: ChatModel, phrasings: Sequence[str], prompts: Sequence[Prompt], *, opening_tokens: int
) -> list[str]:
    """The phrasings that share the likeliest opening of `opening_tokens` tokens, averaged over `prompts`.

    Raises:
        TooFewPairsError: no phrasing or no prompt.
    """
    if not phrasings or not prompts:
        raise TooFewPairsError("choosing a refusal needs at least one phrasing and one prompt")
    groups: dict[tuple[int, ...], list[str]] = {}
    for phrasing in phrasings:
        groups.setdefault(tuple(chat.answer_ids(phrasing, limit=opening_tokens, ended=False)), []).append(phrasing)
    scores = []
    with chat.frozen(), torch.no_grad():
        for members in groups.values():
            batch = make_batch(
                [dialogue(chat, prompt.text, members[0], limit=opening_tokens, ended=False) for prompt in prompts],
                first_tokens=0,
                first_weight=1.0,
                device=chat.device,
            )
            scores.append(float(log_likelihoods(answer_logits(chat, batch), batch.target).mean()))
    best = max(range(len(scores)), key=scores.__getitem__)
    return list(groups.values())[best]
