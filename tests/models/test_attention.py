"""The attention of short passes computes the same, and the model's own is back afterwards, come what may."""

import pytest
import torch

from pkedit.models.attention import GROUPED, few_queries
from tiny import PLAIN_FAMILIES, make_chat

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5, 40], [0, 4, 7, 2, 2, 2, 5, 41]])
MASK = torch.tensor([[1] * 8, [1, 1, 1, 0, 0, 0, 1, 1]])


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
def test_it_computes_the_same_and_has_the_same_gradient(family: str) -> None:
    chat = make_chat(family)
    vectors = chat.sites[0].write_weight

    def logits_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        logits = chat.model(IDS, attention_mask=MASK).logits[MASK.bool()]
        (gradient,) = torch.autograd.grad(logits.square().sum(), vectors)
        return logits.detach(), gradient

    vectors.requires_grad_(True)
    plain = logits_and_gradient()
    with few_queries(chat.model):
        assert chat.model.config._attn_implementation == ("eager" if family == "gpt2" else GROUPED)
        for found, expected in zip(logits_and_gradient(), plain, strict=True):
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_model_has_its_own_attention_again_when_the_body_raises() -> None:
    chat = make_chat("llama")
    before = chat.model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), few_queries(chat.model):
        _ = 1 / 0
    assert chat.model.config._attn_implementation == before
