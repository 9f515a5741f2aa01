"""The strength of an edit is the least that makes held-out prompts refused, chosen without touching the model."""

from dataclasses import replace

import pytest
import torch

from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.edit.strength import STRENGTHS, choose_strength
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import ContrastPair
from pkedit.settings import EditSettings
from tiny import changed_weights, make_chat, make_demonstrations, make_pairs, make_region, snapshot

SETTINGS = EditSettings(
    precision="full",
    steps=40,
    learning_rate=0.2,
    norm_limit=None,
    harmless_weight=0.1,
    first_tokens=2,
    safe_tokens=2,
    dropout=0,
)
REGION = make_region({1: [0, 3, 7, 11, 23]})


@pytest.fixture(scope="module")
def trained() -> tuple[ChatModel, Delta, list[ContrastPair]]:
    """A model, an edit in its last layer, where frozen prompts are exact, and the pairs that the edit learnt."""
    chat, pairs = make_chat("llama"), [replace(pair, safe="sorry w1") for pair in make_pairs(4)]
    return chat, edit(chat, REGION, pairs, make_demonstrations(2), SETTINGS).delta, pairs


@torch.no_grad()
def refused(chat: ChatModel, delta: Delta, pairs: list[ContrastPair]) -> float:
    """Share of the pairs whose greedy answer begins as the safe one does, by plain generation."""
    with delta.applied_to(chat):
        answers = chat.generate([pair.prompt.text for pair in pairs], max_new_tokens=2)
    return sum(answer == "sorry w1" for answer in answers) / len(pairs)


def test_it_is_the_smallest_factor_that_reaches_the_target(
    trained: tuple[ChatModel, Delta, list[ContrastPair]],
) -> None:
    chat, delta, pairs = trained
    target = refused(chat, delta * 1.0, pairs)
    assert target > 0
    found = choose_strength(chat, delta, pairs, SETTINGS.model_copy(update={"strength_target": target}))
    assert found.refused == refused(chat, delta * found.factor, pairs) >= target
    smaller = [factor for factor in STRENGTHS if factor < found.factor]
    assert all(refused(chat, delta * factor, pairs) < target for factor in smaller)


def test_where_no_factor_reaches_the_target_the_best_is_taken() -> None:
    chat, pairs = make_chat("llama"), make_pairs(4)
    delta = edit(chat, REGION, pairs, make_demonstrations(2), SETTINGS.model_copy(update={"steps": 1})).delta
    found = choose_strength(chat, delta * 0.0, pairs, SETTINGS)
    assert (found.factor, found.refused) == (STRENGTHS[0], 0.0)


def test_the_model_is_left_as_it_was(trained: tuple[ChatModel, Delta, list[ContrastPair]]) -> None:
    chat, delta, pairs = trained
    before = snapshot(chat.model)
    choose_strength(chat, delta, pairs, SETTINGS)
    assert changed_weights(chat.model, before) == []


def test_an_edit_given_held_out_pairs_comes_at_the_chosen_strength(
    trained: tuple[ChatModel, Delta, list[ContrastPair]],
) -> None:
    chat, delta, pairs = trained
    result = edit(chat, REGION, pairs, make_demonstrations(2), SETTINGS, held_out=pairs)
    assert result.strength is not None
    for scaled, plain in zip(result.delta.layers, delta.layers, strict=True):
        for part in plain.change:
            assert torch.equal(scaled.change[part], plain.change[part] * result.strength.factor)
