"""An edit for other weights of the same model keeps its change and takes their originals; other models are refused."""

from dataclasses import replace

import pytest
import torch

from pkedit.edit.delta import Delta, vectors
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.rebase import LARGEST_ERROR, rebase
from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel
from tiny import TEMPLATE, changed_weights, make_chat, make_region, snapshot


def random_delta(chat: ChatModel) -> Delta:
    hooked = HookedDelta(chat, make_region({0: [1, 9], 1: [4, 17]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    return hooked.freeze()


def moved(share: float) -> ChatModel:
    """The model with every write vector of layer 1 longer by this share, which is the error beside the new length."""
    chat = make_chat("llama")
    with torch.no_grad():
        chat.sites[1].write_vectors().mul_(1 + share)
    return chat


def test_the_change_stays_and_the_originals_are_those_of_the_new_weights() -> None:
    delta, chat = random_delta(make_chat("llama")), replace(moved(0.1), name="other")
    before = snapshot(chat.model)
    result = rebase(delta, chat)
    assert changed_weights(chat.model, before) == []
    assert result.delta.base == "other"
    assert result.delta.made_for == delta.made_for
    for layer, old in zip(result.delta.layers, delta.layers, strict=True):
        assert torch.equal(layer.neurons, old.neurons)
        for part, change in layer.change.items():
            assert torch.equal(change, old.change[part])
            assert torch.equal(layer.original[part], vectors(chat.places[layer.site], part)[layer.neurons])
    with result.delta.applied_to(chat):
        assert len(changed_weights(chat.model, before)) == 4
    assert changed_weights(chat.model, before) == []


def test_the_originals_are_copies_that_a_later_change_of_the_model_leaves_alone() -> None:
    chat = make_chat("llama")
    result = rebase(random_delta(chat), chat)
    before = result.delta.layers[0].original["write"].clone()
    with torch.no_grad():
        chat.sites[0].write_vectors().zero_()
    assert torch.equal(result.delta.layers[0].original["write"], before)


def test_the_error_is_the_largest_of_any_matrix_as_a_share_of_the_new_weights() -> None:
    assert rebase(random_delta(make_chat("llama")), make_chat("llama")).error == 0.0
    assert rebase(random_delta(make_chat("llama")), moved(0.1)).error == pytest.approx(0.1 / 1.1, rel=1e-4)


def test_what_quantisation_explains_is_taken_and_more_is_refused_with_the_matrix() -> None:
    delta = random_delta(make_chat("llama"))
    # The error is share / (1 + share).
    largest = LARGEST_ERROR / (1 - LARGEST_ERROR)
    assert rebase(delta, moved(0.99 * largest)).error < LARGEST_ERROR
    with pytest.raises(DeltaError, match=r"differ by 25\.\d % in layers\.1, write, more than the 25 %"):
        rebase(delta, moved(1.01 * largest))


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_that_are_not_finite_are_refused(layer: int) -> None:
    chat = moved(0.1)
    with torch.no_grad():
        chat.sites[layer].read_vectors(0)[:, 0] = float("nan")
    with pytest.raises(DeltaError, match=rf"differ by nan % in layers\.{layer}, read0"):
        rebase(random_delta(make_chat("llama")), chat)


def test_another_chat_template_is_named_and_another_vocabulary_refused() -> None:
    chat = make_chat("llama")
    delta = random_delta(chat)
    chat.tokenizer.chat_template = TEMPLATE + " "
    (difference,) = rebase(delta, chat).differences
    assert "chat template" in difference
    with pytest.raises(DeltaError, match="another shape: tiny has vocabulary of 209 tokens, not 300"):
        rebase(delta, make_chat("llama", vocab_size=300))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 1}, r"no neurons where layers\.1 is changed"),
        ({"neurons": 17}, r"no neurons where layers\.1 is changed"),
        ({"hidden": 32}, r"layers\.0 has vectors of 32 numbers there, 16 where it was made"),
    ],
)
def test_an_edit_that_does_not_know_its_base_is_refused_where_it_does_not_fit(
    options: dict[str, int], message: str
) -> None:
    with pytest.raises(DeltaError, match=message):
        rebase(replace(random_delta(make_chat("llama")), made_for=None), make_chat("llama", **options))


def test_an_edit_that_does_not_know_its_base_fits_the_smallest_model_with_its_neurons() -> None:
    delta = replace(random_delta(make_chat("llama")), made_for=None)
    # 17 is the last of 18; the weights are others, and that is what it is refused for.
    with pytest.raises(DeltaError, match="their weights differ"):
        rebase(delta, make_chat("llama", neurons=18))
    assert rebase(Delta((), "tiny"), make_chat("llama")).error == 0.0
