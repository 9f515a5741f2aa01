"""Hooks see and change what they say, and are gone afterwards even when the body raises."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from pkedit.models.chat import ChatModel
from pkedit.models.hooks import (
    added_outputs,
    gradients_from,
    inputs_of,
    outputs_of,
    replaced_activations,
    scaled_activations,
    skipped_blocks,
)
from tiny import leftovers

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5]])
NEURONS = torch.tensor([1, 4])


def logits(chat: ChatModel) -> torch.Tensor:
    result: torch.Tensor = chat.model(IDS, use_cache=False).logits
    return result


CONTEXTS: dict[str, Callable[[ChatModel], AbstractContextManager[None]]] = {
    "inputs_of": lambda chat: inputs_of([site.write for site in chat.sites], lambda *_: None),
    "outputs_of": lambda chat: outputs_of([site.write for site in chat.sites], lambda *_: None),
    "gradients_from": lambda chat: gradients_from(chat.blocks[0]),
    "scaled_activations": lambda chat: scaled_activations(chat.sites[0].write, NEURONS, 0.0),
    "replaced_activations": lambda chat: replaced_activations([(chat.sites[0].write, NEURONS, torch.ones(2))]),
    "added_outputs": lambda chat: added_outputs([chat.sites[0].write], lambda _, __, output: output + 1.0),
    "skipped_blocks": lambda chat: skipped_blocks(chat.blocks[:1], torch.zeros(1, 7, 16), as_tuple=lambda: False),
}


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_nothing_is_left_when_the_body_raises(chat: ChatModel, name: str) -> None:
    expected = logits(chat)
    with CONTEXTS[name](chat):
        assert leftovers(chat.model), "the context did nothing"
    with pytest.raises(RuntimeError, match="body"), CONTEXTS[name](chat):
        raise RuntimeError("body")
    assert leftovers(chat.model) == []
    assert torch.equal(logits(chat), expected)


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_nothing_is_left_after_a_body_that_ran_the_model(chat: ChatModel, name: str) -> None:
    expected = logits(chat)
    with CONTEXTS[name](chat):
        logits(chat)
    assert leftovers(chat.model) == []
    assert torch.equal(logits(chat), expected)


def test_inputs_and_outputs_are_those_of_the_modules_in_order(chat: ChatModel) -> None:
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}
    writes = [site.write for site in chat.sites]
    with inputs_of(writes, inputs.__setitem__), outputs_of(writes, outputs.__setitem__), torch.no_grad():
        logits(chat)
        for place, write in enumerate(writes):
            assert inputs[place].shape == (1, 7, 24)
            torch.testing.assert_close(write(inputs[place]), outputs[place])


def test_scaled_and_replaced_activations_change_only_the_named_neurons(chat: ChatModel) -> None:
    write = chat.sites[1].write
    seen: list[torch.Tensor] = []

    def watch(context: AbstractContextManager[None]) -> None:
        with context, inputs_of([write], lambda _, activation: seen.append(activation)), torch.no_grad():
            logits(chat)

    watch(scaled_activations(write, NEURONS, 1.0))
    watch(scaled_activations(write, NEURONS, 3.0))
    watch(replaced_activations([(write, NEURONS, torch.tensor([0.5, -2.0]))]))
    plain, scaled, replaced = seen
    others = [index for index in range(24) if index not in NEURONS]
    torch.testing.assert_close(scaled[..., NEURONS], 3.0 * plain[..., NEURONS])
    assert torch.equal(scaled[..., others], plain[..., others])
    assert (replaced[..., NEURONS] == torch.tensor([0.5, -2.0])).all()
    assert torch.equal(replaced[..., others], plain[..., others])


def test_added_outputs_replace_what_the_module_returns(chat: ChatModel) -> None:
    seen: list[torch.Tensor] = []

    def double(place: int, entering: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        assert place == 0
        assert entering.shape[-1] == 24
        return 2.0 * output

    write = chat.sites[0].write
    with torch.no_grad(), outputs_of([write], lambda _, output: seen.append(output)):
        logits(chat)
    with torch.no_grad(), added_outputs([write], double), outputs_of([write], lambda _, output: seen.append(output)):
        logits(chat)
    torch.testing.assert_close(seen[1], 2.0 * seen[0])


def test_gradients_flow_through_a_frozen_model_from_the_given_block(chat: ChatModel) -> None:
    with chat.frozen():
        assert not logits(chat).requires_grad
        with gradients_from(chat.blocks[1]):
            assert logits(chat).requires_grad


def test_the_model_jumps_over_skipped_blocks(chat: ChatModel) -> None:
    seen: list[torch.Tensor | tuple[torch.Tensor, ...]] = []
    with torch.no_grad(), outputs_of(chat.blocks[:1], lambda _, output: seen.append(output)):
        expected = logits(chat)
    as_tuple = isinstance(seen[0], tuple)
    hidden = seen[0][0] if as_tuple else seen[0]
    assert isinstance(hidden, torch.Tensor)
    with torch.no_grad():
        with skipped_blocks(chat.blocks[:1], hidden, as_tuple=lambda: as_tuple):
            torch.testing.assert_close(logits(chat), expected)
        with skipped_blocks(chat.blocks[:1], 2.0 * hidden + 1.0, as_tuple=lambda: as_tuple):
            assert not torch.allclose(logits(chat), expected)
        with skipped_blocks(chat.blocks[1:], None, as_tuple=lambda: as_tuple):
            torch.testing.assert_close(logits(chat), chat.head(chat.final_norm(hidden)))


def test_skipping_gives_back_a_forward_that_was_replaced_before(llama: ChatModel) -> None:
    # accelerate replaces `forward` on the instance when it spreads a model over devices.
    block = llama.blocks[0]
    inner = block.forward
    block.forward = lambda *args, **keywords: inner(*args, **keywords)
    given = block.forward
    with skipped_blocks([block], torch.zeros(1, 7, 16), as_tuple=lambda: False):
        logits(llama)
    assert vars(block).get("forward") is given
