"""Chooses the refusal phrasings that come most naturally to a model.

Targets that begin in seven different ways cannot all be likely: at the first token, where the model decides,
their likelihood is bounded by how often each is used, and the loss pulls in seven directions. So the safe
answers of one edit share one opening, the one the model itself finds likeliest, and differ after it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pkedit.errors import TooFewPairsError
from pkedit.models.batches import Dialogue, answer_scores, make_batch, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.keys import lent, read_beginning
from pkedit.prompts.types import Prompt


def natural_refusals(
    chat: ChatModel, phrasings: Sequence[str], prompts: Sequence[Prompt], *, opening_tokens: int
) -> list[str]:
    """The phrasings that share the likeliest opening of `opening_tokens` tokens, averaged over `prompts`.

    Raises:
        TooFewPairsError: no phrasing or no prompt.
    """
    if not phrasings or not prompts:
        raise TooFewPairsError("choosing a refusal needs at least one phrasing and one prompt; give some")
    groups: dict[tuple[int, ...], list[str]] = {}
    for phrasing in phrasings:
        groups.setdefault(tuple(chat.answer_ids(phrasing, limit=opening_tokens, ended=False)), []).append(phrasing)
    openings = [chat.answer_ids(members[0], limit=opening_tokens, ended=False) for members in groups.values()]
    with chat.frozen(), torch.no_grad():
        scores = sum(_likelihoods(chat, chat.prompt_ids(prompt.conversation), openings) for prompt in prompts)
    assert isinstance(scores, Tensor)
    return list(groups.values())[int(scores.argmax())]


def _likelihoods(chat: ChatModel, prompt: Sequence[int], openings: Sequence[Sequence[int]]) -> Tensor:
    """Mean log p per token of each opening after the prompt, which is read once: [openings]."""
    read = 0 if chat.cannot_reuse else len(prompt) - 1
    batch = make_batch(
        [Dialogue(tuple(prompt[read:]), tuple(opening)) for opening in openings],
        first_tokens=0,
        first_weight=1.0,
        device=chat.device,
    )
    if not read:
        return answer_scores(chat, batch)
    cache = lent(read_beginning(chat.model, prompt[:read]), len(openings))
    states = chat.body(input_ids=batch.ids, past_key_values=cache, use_cache=True).last_hidden_state
    return batch.per_dialogue(state_likelihoods(chat, batch.at_answers(states), batch.target))
