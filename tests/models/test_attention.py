"""The attention of short passes computes the same, and the model's own is back afterwards, come what may."""

import pytest
import torch

from pkedit.models.attention import few_queries
from tiny import make_chat

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5, 40]])


@torch.no_grad()
def test_it_computes_the_same() -> None:
    chat = make_chat("llama")
    plain = chat.model(IDS).logits
    with few_queries(chat):
        assert chat.model.config._attn_implementation == "eager"
        assert torch.allclose(chat.model(IDS).logits, plain, atol=1e-5)


def test_the_model_has_its_own_attention_again_when_the_body_raises() -> None:
    chat = make_chat("llama")
    before = chat.model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), few_queries(chat):
        _ = 1 / 0
    assert chat.model.config._attn_implementation == before
