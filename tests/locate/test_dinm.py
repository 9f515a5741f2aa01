"""DINM's layer is where safe and unsafe answers lie furthest apart, read as the paper says."""

import pytest
import torch

from pkedit.errors import TooFewPairsError
from pkedit.locate.dinm import layer_distances, toxic_layer, whole_layer
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import ContrastPair
from tiny import UNSAFE, changed_weights, leftovers, make_chat, make_pairs, snapshot, token

LAYERS = 4


def parted(layer: int) -> ChatModel:
    """A model whose layer `layer` writes a large vector at unsafe answer tokens, and whose next layer takes it back."""
    chat = make_chat("llama", layers=LAYERS, initializer_range=0.05)
    with torch.no_grad():
        embedding = chat.model.get_input_embeddings().weight
        # Coordinate 0 tells the unsafe answers' words; coordinate 1 is where the layers disagree.
        embedding[:, :2] = 0.0
        embedding[token(UNSAFE), 0] = 0.5
        for site in chat.sites:
            for which in range(2):
                site.read_vectors(which)[:, :2] = 0.0
            site.write_vectors()[:, :2] = 0.0
            attention = site.block.self_attn
            attention.o_proj.weight[:2] = 0.0
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.weight[:, :2] = 0.0
        writer = chat.sites[layer]
        for which in range(2):
            writer.read_vectors(which)[0] = 0.0
            writer.read_vectors(which)[0, 0] = 2.0
        writer.write_vectors()[0] = 0.0
        writer.write_vectors()[0, 1] = 1.0
        if layer + 1 < LAYERS:
            eraser = chat.sites[layer + 1]
            for which in range(2):
                eraser.read_vectors(which)[0] = 0.0
                eraser.read_vectors(which)[0, 1] = 2.0
            # The norm makes the coordinate about √hidden, whatever its size; measured once, taken back exactly.
            eraser.write_vectors()[0] = 0.0
            ids = torch.tensor([[token(UNSAFE)]])
            hidden = chat.model(ids, output_hidden_states=True).hidden_states[layer + 1][0, 0]
            block = eraser.block
            scaled = block.post_attention_layernorm(hidden) @ eraser.read_vectors(0)[0]
            eraser.write_vectors()[0, 1] = -hidden[1] / (torch.nn.functional.silu(scaled) * scaled)
    return chat


def pairs() -> list[ContrastPair]:
    """Unsafe answers made of the unsafe word, of another length than the safe ones."""
    return [ContrastPair(pair.prompt, pair.safe, f"{UNSAFE} {UNSAFE}") for pair in make_pairs(3, answer_tokens=4)]


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_difference_planted_in_one_layer_is_found(layer: int) -> None:
    assert toxic_layer(parted(layer), pairs(), limit=8) == layer


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_released_code_finds_it_too(layer: int) -> None:
    assert toxic_layer(parted(layer), pairs(), limit=8, as_released=True) == layer


@torch.no_grad()
def test_distances_are_between_mean_states_of_the_answers_own_tokens(chat: ChatModel) -> None:
    for pair in make_pairs(3):
        prompt = chat.prompt_ids(pair.prompt.text)
        means = []
        for text in (pair.safe, pair.unsafe):
            answer = chat.answer_ids(text, limit=3)
            states = chat.model(torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states
            # The last entry of hidden_states has passed the final norm; a layer's output has not.
            means.append(states[1][0, len(prompt) :].mean(0))
        found = layer_distances(chat, pair, limit=3)
        assert found.shape == (2,)
        assert float(found[0]) == pytest.approx(float((means[0] - means[1]).norm()), rel=1e-4)


@torch.no_grad()
def test_the_released_distance_sees_padding_and_no_prompt(llama: ChatModel) -> None:
    (pair,) = make_pairs(1)
    short = ContrastPair(pair.prompt, pair.safe, UNSAFE)
    other_prompt = ContrastPair(make_pairs(2)[1].prompt, pair.safe, UNSAFE)
    released = layer_distances(llama, short, limit=8, as_released=True)
    assert torch.equal(released, layer_distances(llama, other_prompt, limit=8, as_released=True))
    assert not torch.allclose(layer_distances(llama, short, limit=8), layer_distances(llama, other_prompt, limit=8))
    llama.tokenizer.pad_token = "w9"
    assert not torch.allclose(layer_distances(llama, short, limit=8, as_released=True), released)


def test_equal_answers_have_no_distance(llama: ChatModel) -> None:
    (pair,) = make_pairs(1)
    with torch.no_grad():
        distances = layer_distances(llama, ContrastPair(pair.prompt, pair.safe, pair.safe), limit=8)
    assert torch.equal(distances, torch.zeros(2))


def test_the_layer_is_decided_by_the_majority_of_the_pairs(monkeypatch: pytest.MonkeyPatch, llama: ChatModel) -> None:
    votes = iter([1, 0, 1])
    monkeypatch.setattr(
        "pkedit.locate.dinm.layer_distances",
        lambda *_, **__: torch.nn.functional.one_hot(torch.tensor(next(votes)), 2).float(),
    )
    assert toxic_layer(llama, make_pairs(3), limit=8) == 1


def test_where_layers_are_level_the_earlier_one_wins(monkeypatch: pytest.MonkeyPatch, llama: ChatModel) -> None:
    votes = iter([1, 0])
    monkeypatch.setattr(
        "pkedit.locate.dinm.layer_distances",
        lambda *_, **__: torch.nn.functional.one_hot(torch.tensor(next(votes)), 2).float(),
    )
    assert toxic_layer(llama, make_pairs(2), limit=8) == 0


def test_without_pairs_there_is_no_layer(llama: ChatModel) -> None:
    with pytest.raises(TooFewPairsError):
        toxic_layer(llama, [], limit=8)


def test_the_whole_layer_is_every_neuron_of_it_and_nothing_else(llama: ChatModel) -> None:
    assert whole_layer(llama, 1).by_layer() == {1: list(range(24))}


def test_the_model_is_left_as_it_was(chat: ChatModel) -> None:
    chat.model.train()
    before = snapshot(chat.model)
    toxic_layer(chat, make_pairs(2), limit=8)
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert chat.model.training


@pytest.mark.parametrize("as_released", [False, True])
def test_the_layer_is_that_of_the_distances_asked_for(
    monkeypatch: pytest.MonkeyPatch, llama: ChatModel, as_released: bool
) -> None:
    def distances(*_: object, limit: int, as_released: bool) -> torch.Tensor:
        assert limit == 8
        return torch.tensor([0.0, 1.0] if as_released else [1.0, 0.0])

    monkeypatch.setattr("pkedit.locate.dinm.layer_distances", distances)
    assert toxic_layer(llama, make_pairs(2), limit=8, as_released=as_released) == int(as_released)


@torch.no_grad()
def test_the_released_distance_is_of_the_answers_alone_without_an_end_of_turn(llama: ChatModel) -> None:
    (pair,) = make_pairs(1)
    answers = [llama.answer_ids(text, ended=False) for text in (pair.safe, pair.unsafe)]
    assert len(answers[0]) == len(answers[1])
    states = [llama.model(torch.tensor([answer]), output_hidden_states=True).hidden_states[1][0] for answer in answers]
    found = layer_distances(llama, pair, limit=8, as_released=True)
    assert float(found[0]) == pytest.approx(float((states[0] - states[1]).norm()), rel=1e-4)


def test_the_whole_layer_says_how_it_was_chosen(llama: ChatModel) -> None:
    assert whole_layer(llama, 0).signals == {"layer": 1.0}
    assert {neuron.score for neuron in whole_layer(llama, 0).neurons} == {0.0}
