"""What is not the edit does not pass for it, in 16 bits neither; a check that cannot tell says so."""

from dataclasses import replace

import pytest
import torch
from edited import random_delta

from pkedit.errors import ExportError
from pkedit.export.check import check_logits, check_weights, prompt_ids, reference_logits
from pkedit.models.chat import ChatModel
from tiny import make_chat


@pytest.fixture(params=["float32", "bfloat16"])
def chat(request: pytest.FixtureRequest) -> ChatModel:
    chat = make_chat("llama")
    chat.model.to(getattr(torch, request.param))
    return chat


def test_a_model_without_the_edit_is_refused_in_any_precision(chat: ChatModel) -> None:
    delta, prompts = random_delta(chat), prompt_ids(chat.tokenizer, "tiny")
    reference = reference_logits(chat, delta, prompts)
    with pytest.raises(ExportError, match="is not the edit, and nothing was written: its logits differ"):
        check_logits(chat.model, prompts, reference, "full model")
    with (delta * 0.5).applied_to(chat), pytest.raises(ExportError, match="its logits differ"):
        check_logits(chat.model, prompts, reference, "full model")
    with delta.applied_to(chat):
        assert "bit for bit" in check_logits(chat.model, prompts, reference, "full model").sentence


def test_logits_that_cannot_tell_a_small_edit_from_none_are_said_to(chat: ChatModel) -> None:
    precision = torch.finfo(chat.dtype).eps
    delta, prompts = random_delta(chat), prompt_ids(chat.tokenizer, "tiny")
    reference = reference_logits(chat, delta, prompts)
    # An edit that moves every logit by one rounding of its own.
    reference = replace(reference, edited=tuple(base * (1 + precision) for base in reference.base))
    found = check_logits(chat.model, prompts, reference, "adapter")
    assert not found.telling
    assert found.sentence.endswith("logits alone cannot tell such an edit from none.")


def test_every_step_is_told(llama: ChatModel) -> None:
    prompts, steps = prompt_ids(llama.tokenizer, "tiny"), []
    reference_logits(llama, random_delta(llama), prompts, lambda done, total: steps.append((done, total)))
    assert steps == [(number, 8) for number in range(1, 9)] * 2


def test_saved_weights_are_compared_bit_for_bit(chat: ChatModel) -> None:
    delta = random_delta(chat)
    with pytest.raises(ExportError, match=r"layers\.0, write, are not base \+ delta"):
        check_weights(chat.sites, delta)
    with delta.applied_to(chat):
        check_weights(chat.sites, delta)
        with torch.no_grad():
            row = chat.sites[1].read_vectors(1)[delta.layers[1].neurons[-1]]
            row[3] = torch.nextafter(row[3], torch.tensor(torch.inf, dtype=row.dtype))
        with pytest.raises(ExportError, match=r"layers\.1, read1, are not base \+ delta"):
            check_weights(chat.sites, delta)
