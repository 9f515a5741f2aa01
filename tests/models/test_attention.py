"""The attention of short passes computes the same, and the model's own is back afterwards, come what may."""

import pytest
import torch

from pkedit.models.attention import GROUPED, LONG, few_queries, short_reading
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


@pytest.mark.parametrize(("places", "expected"), [(LONG, GROUPED), (LONG + 1, "sdpa")])
def test_only_short_sequences_are_read_so(places: int, expected: str) -> None:
    chat = make_chat("llama")
    with short_reading(chat.model, places):
        assert chat.model.config._attn_implementation == expected
    assert chat.model.config._attn_implementation == "sdpa"


def test_short_sequences_are_read_to_the_same_states() -> None:
    chat = make_chat("llama")
    with torch.no_grad():
        expected = chat.body(IDS, attention_mask=MASK).last_hidden_state[MASK.bool()]
        with short_reading(chat.model, IDS.shape[1]):
            found = chat.body(IDS, attention_mask=MASK).last_hidden_state[MASK.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
