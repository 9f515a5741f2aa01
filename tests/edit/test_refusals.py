"""The chosen refusals share the opening that the model itself finds likeliest."""

from dataclasses import replace

import pytest
import torch

from pkedit.edit.refusals import natural_refusals
from pkedit.errors import TooFewPairsError
from pkedit.models.chat import ChatModel
from tiny import answer_log_likelihood, make_pairs, snapshot

PHRASINGS = ["w1 w2 w10", "w3 w4 w11", "w1 w2 w12", "w5 w6 w13", "w3 w4 w14"]
PROMPTS = [pair.prompt for pair in make_pairs(4)]


@torch.no_grad()
def likelihood(chat: ChatModel, opening: str) -> float:
    ids = chat.answer_ids(opening, ended=False)
    scores = [answer_log_likelihood(chat, chat.prompt_ids(prompt.text), ids).mean() for prompt in PROMPTS]
    return float(torch.stack(scores).mean())


def test_the_likeliest_opening_wins_and_all_its_phrasings_stay(chat: ChatModel) -> None:
    openings = {opening: likelihood(chat, opening) for opening in ("w1 w2", "w3 w4", "w5 w6")}
    best = max(openings, key=openings.__getitem__)
    found = natural_refusals(chat, PHRASINGS, PROMPTS, opening_tokens=2)
    assert found == [phrasing for phrasing in PHRASINGS if phrasing.startswith(best)]


def test_a_longer_opening_tells_more_phrasings_apart(llama: ChatModel) -> None:
    assert len(natural_refusals(llama, PHRASINGS, PROMPTS, opening_tokens=3)) == 1


def test_the_model_is_left_as_it_was(llama: ChatModel) -> None:
    llama.model.train()
    before = snapshot(llama.model)
    natural_refusals(llama, PHRASINGS, PROMPTS, opening_tokens=2)
    assert all(torch.equal(before[name], weight) for name, weight in llama.model.named_parameters())
    assert llama.model.training


@pytest.mark.parametrize(("phrasings", "prompts"), [([], PROMPTS), (PHRASINGS, [])])
def test_nothing_to_choose_from_is_an_error(llama: ChatModel, phrasings: list[str], prompts: list) -> None:
    with pytest.raises(TooFewPairsError):
        natural_refusals(llama, phrasings, prompts, opening_tokens=2)


def test_prompts_are_read_once_whatever_the_number_of_openings(llama: ChatModel) -> None:
    tokens: list[int] = []
    embedding = llama.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, args: tokens.append(args[0].numel()))
    natural_refusals(llama, PHRASINGS, PROMPTS, opening_tokens=2)
    handle.remove()
    # Each of three openings is two tokens behind the last one of the prompt, which predicts them.
    assert sum(tokens) <= sum(len(llama.prompt_ids(prompt.text)) - 1 + 3 * (1 + 2) for prompt in PROMPTS)


@pytest.mark.parametrize("opening_tokens", [1, 2, 3])
def test_a_model_whose_caches_cannot_be_reused_chooses_the_same(chat: ChatModel, opening_tokens: int) -> None:
    expected = natural_refusals(chat, PHRASINGS, PROMPTS, opening_tokens=opening_tokens)
    lent: list[object] = []
    chat.body.register_forward_pre_hook(lambda *given: lent.append(given[2].get("past_key_values")), with_kwargs=True)
    whole = replace(chat, cannot_reuse="a state that cannot be lent")
    assert natural_refusals(whole, PHRASINGS, PROMPTS, opening_tokens=opening_tokens) == expected
    assert len(lent) >= len(PROMPTS)
    assert all(cache is None for cache in lent)
