"""The words of an edit: what a write vector promotes before and after, with the sign that its neuron acts with."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import make_architecture_chat
from pkedit.edit.delta import Delta, LayerDelta
from pkedit.edit.words import Words, words_of
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import inputs_of
from tiny import WORDS, changed_weights, leftovers, make_chat, make_pairs, make_region, snapshot, token

INDEX = 5
BEFORE, AFTER = "w7", "w9"


def prompts(chat: ChatModel) -> list[list[int]]:
    return [chat.prompt_ids(pair.prompt.text) for pair in make_pairs(3)]


def words(chat: ChatModel, delta: Delta) -> Words:
    region = make_region({0: [2], 1: [1, INDEX]})
    region = replace(region, neurons=tuple(replace(one, score=0.5 + one.index) for one in region.neurons))
    return words_of(chat, region, delta, prompts(chat), tokens_per_batch=20)


def direction(chat: ChatModel, word: str) -> Tensor:
    """What the final norm turns into the unembedding of a word, and of little else."""
    vector = chat.model.get_output_embeddings().weight[token(word)].detach().clone()
    return vector / vector.norm()


def written(chat: ChatModel, *, layer: int = 1, change: Tensor | None = None) -> Delta:
    """One neuron that promotes BEFORE, and its change into one that promotes AFTER."""
    original = chat.places[layer, None].write_vectors()[INDEX].detach().clone()
    change = direction(chat, AFTER) - original if change is None else change
    return Delta((LayerDelta(layer, torch.tensor([INDEX]), {"write": change[None]}, {"write": original[None]}),))


def plant(chat: ChatModel, *, sign: int) -> Delta:
    """`written` in a model whose neuron acts with activations of this sign, before and after."""
    site = chat.places[1, None]
    with torch.no_grad():
        site.write_vectors()[INDEX] = direction(chat, BEFORE)
        mean = mean_activation(chat)
        if mean * sign < 0:
            # The up projection is the linear factor.
            site.read_vectors(1)[INDEX] *= -1
    return written(chat)


@torch.no_grad()
def mean_activation(chat: ChatModel) -> float:
    seen: list[Tensor] = []
    with inputs_of([chat.places[1, None].write], lambda _, states: seen.append(states[0, -1, INDEX])):
        for prompt in prompts(chat):
            chat.body(input_ids=torch.tensor([prompt]), use_cache=False)
    return float(torch.stack(seen).mean())


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_vector_along_an_unembedding_promotes_that_word(family: str) -> None:
    chat = make_chat(family, hidden=64)
    (found,) = words(chat, plant(chat, sign=1)).neurons
    assert (found.layer, found.expert, found.index, found.score) == (1, None, INDEX, 0.5 + INDEX)
    assert (found.before[0], found.after[0]) == (f" {BEFORE}", f" {AFTER}")
    assert len(found.before) == len(found.after) == 8
    assert {word.strip() for word in [*found.before, *found.after]} <= set(WORDS)


def test_a_neuron_that_acts_with_negative_activations_promotes_the_opposite() -> None:
    chat = make_chat("llama", hidden=64)
    one = words(chat, plant(chat, sign=1))
    other = words(chat, plant(chat, sign=-1))
    assert "negative (0 of 1)" in one.note
    assert "negative (1 of 1)" in other.note
    opposite = words(chat, replace_vectors(chat, -1)).neurons[0]
    assert other.neurons[0].before != one.neurons[0].before
    # The opposite vector under a negative activation adds the same.
    assert (opposite.before, opposite.after) == (one.neurons[0].before, one.neurons[0].after)


def replace_vectors(chat: ChatModel, sign: int) -> Delta:
    with torch.no_grad():
        chat.places[1, None].write_vectors()[INDEX] = sign * direction(chat, BEFORE)
    original = chat.places[1, None].write_vectors()[INDEX].detach().clone()
    return written(chat, change=sign * direction(chat, AFTER) - original)


def test_the_sign_is_that_of_the_edited_neuron() -> None:
    chat = make_chat("llama", hidden=64)
    delta = plant(chat, sign=1)
    layer = delta.layers[0]
    up = chat.places[1, None].read_vectors(1)[INDEX].detach().clone()
    turned = replace(
        layer, change={**layer.change, "read1": -2 * up[None]}, original={**layer.original, "read1": up[None]}
    )
    assert "negative (1 of 1)" in words(chat, replace(delta, layers=(turned,))).note


def test_biases_of_norms_and_of_the_head_promote_nothing() -> None:
    chat = make_architecture_chat("phi")
    with torch.no_grad():
        chat.model.lm_head.bias.zero_()
        chat.model.lm_head.bias[token("w20")] = 50.0
        chat.body.final_layernorm.bias.copy_(30 * chat.model.lm_head.weight[token("w21")])
    found = words(chat, written(chat)).neurons[0]
    shown = {word.strip() for word in [*found.before, *found.after]}
    assert not shown & {"w20", "w21"}


def test_a_norm_behind_the_mlp_is_passed() -> None:
    chat = make_architecture_chat("gemma2", final_logit_softcapping=None)
    delta = written(chat)
    site = chat.places[1, None]
    norm: Any = chat.blocks[1].post_feedforward_layernorm
    with torch.no_grad():
        norm.weight.copy_(torch.randn(32, generator=torch.Generator().manual_seed(0)))
        added = norm(delta.layers[0].original["write"])
        expected = chat.head(chat.final_norm(added))[0].topk(8).indices
        plain = chat.head(chat.final_norm(delta.layers[0].original["write"]))[0].topk(8).indices
    found = words(chat, delta)
    before = [token(word.strip()) for word in found.neurons[0].before]
    if "negative (1 of 1)" in found.note:
        with torch.no_grad():
            expected = chat.head(chat.final_norm(norm(-delta.layers[0].original["write"])))[0].topk(8).indices
    assert before == expected.tolist()
    assert before != plain.tolist()
    assert site.write_vectors().shape[1] == 32


def test_those_whose_write_vectors_changed_most_come_first(llama: ChatModel) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = []
    for layer in (0, 1):
        original = llama.places[layer, None].write_vectors()[:16].detach().clone()
        change = torch.randn(16, 16, generator=generator) * torch.rand(16, 1, generator=generator)
        layers.append(LayerDelta(layer, torch.arange(16), {"write": change}, {"write": original}))
    ratios = sorted(
        float(change.norm() / original.norm())
        for layer in layers
        for change, original in zip(layer.change["write"], layer.original["write"], strict=True)
    )
    found = words(llama, Delta(tuple(layers))).neurons
    assert [one.change for one in found] == pytest.approx(ratios[::-1][:24], rel=1e-4)
    # Only neurons of the region have a score.
    assert {one.score for one in found if (one.layer, one.index) not in {(0, 2), (1, 1), (1, INDEX)}} == {0.0}


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "qwen2_moe"])
def test_the_model_is_left_as_it_was_in_every_family(family: str) -> None:
    chat = make_architecture_chat(family)
    expert = 2 if family in ("mixtral", "qwen2_moe") else None
    original = chat.places[1, expert].write_vectors()[:4].detach().clone()
    delta = Delta((LayerDelta(1, torch.arange(4), {"write": 0.5 * original}, {"write": original}, expert),))
    before = snapshot(chat.model)
    found = words(chat, delta)
    assert [one.change for one in found.neurons] == pytest.approx([0.5] * 4)
    assert {one.expert for one in found.neurons} == {expert}
    # A vector that only became longer promotes the same.
    assert all(one.before == one.after for one in found.neurons)
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []


def test_a_neuron_whose_vector_did_not_change_is_not_listed(llama: ChatModel) -> None:
    assert words(llama, written(llama, change=torch.zeros(16))) == Words("The edit changed no write vectors.", [])


def test_an_edit_of_gates_alone_has_no_words(llama: ChatModel) -> None:
    gate = llama.places[1, None].read_vectors(0)[:2].detach().clone()
    found = words(llama, Delta((LayerDelta(1, torch.arange(2), {"read0": gate}, {"read0": gate}),)))
    assert found == Words("The edit changed no write vectors.", [])


def test_no_words_are_made_up_where_another_matrix_stands_before_them() -> None:
    chat = make_architecture_chat("opt")
    found = words(chat, written(chat, change=torch.ones(32)))
    assert found.neurons == []
    assert "another matrix" in found.note
