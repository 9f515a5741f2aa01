"""Reduced precision is used where it was asked for, and never where full precision was."""

import pytest
import torch

from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from tiny import changed_weights, snapshot

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5]])


def seen_dtype(chat: ChatModel, precision: str) -> torch.dtype:
    seen: list[torch.dtype] = []
    handle = chat.sites[0].write.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with arithmetic(chat, precision), torch.no_grad():
        chat.model(IDS)
    handle.remove()
    return seen[0]


def test_full_precision_leaves_the_forward_pass_as_it_is(llama: ChatModel) -> None:
    with torch.no_grad():
        expected = llama.model(IDS).logits
        with arithmetic(llama, "full"):
            assert torch.equal(llama.model(IDS).logits, expected)


def test_bfloat16_is_used_when_asked_for(llama: ChatModel) -> None:
    assert seen_dtype(llama, "full") == torch.float32
    assert seen_dtype(llama, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(
    llama: ChatModel, native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native, raising=False)
    assert seen_dtype(llama, "auto") == expected


def test_weights_that_are_not_float32_are_left_in_their_own_arithmetic(llama: ChatModel) -> None:
    llama.model.to(torch.bfloat16)
    with arithmetic(llama, "bfloat16"):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("fails", [False, True])
def test_weights_cast_once_compute_the_same_and_come_back_bit_for_bit(llama: ChatModel, fails: bool) -> None:
    before = snapshot(llama.model)
    with torch.no_grad(), arithmetic(llama, "bfloat16"):
        expected = llama.model(IDS).logits
    try:
        with torch.no_grad(), llama.frozen(), arithmetic(llama, "bfloat16", cast_once=True):
            assert llama.sites[0].write.weight.dtype == torch.bfloat16
            assert llama.model.get_input_embeddings().weight.dtype == torch.float32
            assert torch.equal(llama.model(IDS).logits, expected)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert llama.sites[0].write.weight.dtype == torch.float32
    assert changed_weights(llama.model, before) == []


def test_full_precision_casts_nothing(llama: ChatModel) -> None:
    with arithmetic(llama, "full", cast_once=True):
        assert llama.sites[0].write.weight.dtype == torch.float32


def test_a_head_that_shares_its_weight_with_the_embedding_is_cast_alone(llama: ChatModel) -> None:
    embedding, head = llama.model.get_input_embeddings(), llama.model.get_output_embeddings()
    head.weight = embedding.weight
    with arithmetic(llama, "bfloat16", cast_once=True):
        assert (head.weight.dtype, embedding.weight.dtype) == (torch.bfloat16, torch.float32)
    assert head.weight is embedding.weight
