"""Costs are counted as the formulas say, and as torch counts them when a tiny model really runs."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pkedit.models.costs import Formats, Peaks, Work, experts_read, forward_flops, generating, key_bytes, passing
from pkedit.models.shape import shape_of
from tiny import make_model

TOKENS = 12
MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}


def sized(family: str, **config: Any) -> Any:
    """A model large enough for its matrices to outweigh the rotations of positions, which are not counted."""
    model = make_model(family, hidden=64, neurons=160, attn_implementation="eager", **config)
    if family == "mixtral":
        # One expert after the other: the grouped product is none that torch counts.
        model.set_experts_implementation("eager")
    return model


def counted(model: Any, *, backward: bool = False) -> int:
    """What torch counts when the model runs `TOKENS` tokens, all with logits; with `backward` the way back alone."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    states = model.get_input_embeddings()(torch.arange(3, 3 + TOKENS).unsqueeze(0)).requires_grad_()
    if not backward:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(inputs_embeds=states, use_cache=False)
        return counter.get_total_flops()
    logits = model(inputs_embeds=states, use_cache=False).logits
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    return counter.get_total_flops()


def test_a_tiny_llama_costs_what_a_hand_counts() -> None:
    model = make_model("llama", layers=2, hidden=16, neurons=24)
    shape = shape_of(model)
    # Queries and outputs 16 · 16 each, keys and values 8 · 16 each; gate, up and down 24 · 16 each.
    layer = 2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16
    vocabulary = model.config.vocab_size
    assert shape.dense_weights == 2 * layer
    assert shape.head_weights == 16 * vocabulary
    # Ten tokens that attend to five each, three of them with logits.
    attention = 4 * 2 * 5 * 16
    expected = 10 * (2 * 2 * layer + attention) + 3 * 2 * 16 * vocabulary
    assert forward_flops(shape, 10, context=5, layers=2, logits=3) == expected
    assert forward_flops(shape, 10, context=5, layers=1) == 10 * (2 * layer + attention / 2)


@pytest.mark.parametrize(("family", "config"), [("llama", {}), ("gpt2", {}), ("mixtral", MIXTRAL)])
def test_a_forward_pass_costs_what_torch_counts(family: str, config: dict[str, Any]) -> None:
    model = sized(family, **config)
    # Without a mask to skip them, all earlier and later tokens are multiplied with.
    expected = forward_flops(shape_of(model), TOKENS, context=TOKENS, layers=2, logits=TOKENS)
    assert counted(model) == pytest.approx(expected, rel=0.03)


def test_a_backward_pass_through_frozen_weights_costs_the_same_again() -> None:
    model = sized("llama")
    there = forward_flops(shape_of(model), TOKENS, context=TOKENS, layers=2, logits=TOKENS)
    assert counted(model, backward=True) == pytest.approx(there, rel=0.1)
    options: dict[str, Any] = {"tokens": TOKENS, "context": TOKENS, "passes": 1, "logits": TOKENS}
    both = passing(shape_of(model), Formats(4, 4), backward=True, **options)
    assert both == passing(shape_of(model), Formats(4, 4), **options) * 2


def test_a_token_passes_its_own_experts_only() -> None:
    shape = shape_of(sized("mixtral", **MIXTRAL))
    one_expert = 3 * 160 * 64
    assert (shape.experts, shape.active_experts) == (4, 2)
    assert shape.expert_weights == 2 * 4 * one_expert
    assert shape.active_weights == shape.dense_weights + 2 * 2 * one_expert


def test_many_tokens_read_nearly_all_experts_and_one_its_own() -> None:
    shape = shape_of(sized("mixtral", **MIXTRAL))
    assert experts_read(shape, 1) == 0.5
    assert 0.99 < experts_read(shape, 100) <= 1
    assert experts_read(shape_of(sized("llama")), 100) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_counted_once_and_used_all_the_same(tied: bool) -> None:
    model = make_model("llama", tie_word_embeddings=tied)
    shape = shape_of(model)
    assert shape.tied is tied
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.head_weights == 16 * model.config.vocab_size


def test_every_written_token_reads_the_weights_and_the_keys() -> None:
    shape = shape_of(make_model("llama"))
    work = generating(shape, Formats(4, 4), rows=3, steps=5, context=7)
    weights = (shape.dense_weights + shape.head_weights) * 4
    keys = 2 * shape.layers * 8 * 4
    assert key_bytes(shape, 4) == keys
    logits = 15 * shape.vocabulary * 4 * 6
    assert work.moved == 5 * weights + 5 * 3 * 7 * keys + logits
    assert work.layer_calls == 5 * 2


def test_weights_cast_in_every_pass_move_more() -> None:
    assert Formats(4, 4).read == 4
    assert Formats(4, 2, cast_once=True).read == 2
    # Read, written in the narrow format, and read again.
    assert Formats(4, 2).read == 4 + 2 + 2


def test_time_follows_rates_and_efficiency() -> None:
    work = Work(flops=1e9, moved=1e9, layer_calls=0)
    assert work.seconds(Peaks(1e9, 2e9), 1.0) == 1.5
    assert work.seconds(Peaks(1e9, 2e9), 0.5) == 3.0
    assert (work + work * 2).flops == 3e9
