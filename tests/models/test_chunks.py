"""Scores chunk by chunk are the scores of all tokens at once, gradient included."""

import pytest
import torch
from torch import Tensor

from pkedit.models.batches import divergence, log_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks

TARGETS = torch.tensor([3, 0, 9, 9, 1, 5, 2])


def random_states(chat: ChatModel, count: int = len(TARGETS)) -> Tensor:
    return torch.randn(count, chat.model.config.hidden_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tokens", [1, 3, 7, 64])
def test_scores_and_gradient_are_those_of_one_pass(llama: ChatModel, tokens: int) -> None:
    upstream = torch.linspace(-1, 2, len(TARGETS))
    found, expected = (random_states(llama).requires_grad_() for _ in range(2))
    chunked = in_chunks(found, lambda part, at: log_likelihoods(llama.head(part), TARGETS[at]), tokens=tokens)
    whole = log_likelihoods(llama.head(expected), TARGETS)
    torch.testing.assert_close(chunked, whole)
    (chunked * upstream).sum().backward()
    (whole * upstream).sum().backward()
    assert expected.grad is not None
    assert expected.grad.abs().max() > 0
    torch.testing.assert_close(found.grad, expected.grad)


def test_what_a_score_compares_with_is_cut_to_the_same_tokens(llama: ChatModel) -> None:
    states, reference = random_states(llama).requires_grad_(), random_states(llama).flip(0)
    chunked = in_chunks(states, lambda part, at: divergence(llama.head(reference[at]), llama.head(part)), tokens=2)
    torch.testing.assert_close(chunked, divergence(llama.head(reference), llama.head(states)))


def test_the_gradient_reaches_what_the_states_were_made_from(llama: ChatModel) -> None:
    change = torch.zeros(llama.model.config.hidden_size, requires_grad=True)
    scores = in_chunks(random_states(llama) + change, lambda part, at: log_likelihoods(llama.head(part), TARGETS[at]))
    scores.sum().backward()
    step = 1e-3 * change.grad
    with torch.no_grad():
        moved = log_likelihoods(llama.head(random_states(llama) + step), TARGETS).sum() - scores.sum()
    assert float(moved) == pytest.approx(float(step @ change.grad), rel=0.05)


def test_no_gradient_is_computed_where_none_is_wanted(llama: ChatModel) -> None:
    seen: list[bool] = []

    def score(part: Tensor, at: slice) -> Tensor:
        logits = llama.head(part)
        seen.append(logits.requires_grad)
        return log_likelihoods(logits, TARGETS[at])

    with llama.frozen():
        assert not in_chunks(random_states(llama), score, tokens=3).requires_grad
        with torch.no_grad():
            in_chunks(random_states(llama).requires_grad_(), score, tokens=3)
    assert seen == [False] * 6


def test_no_tokens_have_no_scores(llama: ChatModel) -> None:
    states = random_states(llama, 0).requires_grad_()
    scores = in_chunks(states, lambda part, at: log_likelihoods(llama.head(part), TARGETS[at]))
    assert scores.shape == (0,)
    scores.sum().backward()
    assert states.grad is not None
    assert states.grad.shape == states.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scores_of_no_tokens_are_as_wide_as_those_of_some(llama: ChatModel, dtype: torch.dtype) -> None:
    """A batch without harmless answers has none to compare; what it is put beside is in float32."""
    llama.model.to(dtype)
    states = random_states(llama).to(dtype)
    for count in (0, 3):
        found = in_chunks(states[:count], lambda part, _: log_likelihoods(llama.head(part), [3] * len(part)))
        assert found.dtype == torch.float32
        assert found.shape == (count,)
