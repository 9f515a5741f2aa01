"""Reduced precision is used where it was asked for, and never where full precision was."""

import pytest
import torch

from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic

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
