"""A right-padded batch gives each dialogue what it would get alone, at answer tokens only."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pkedit.models.batches import (
    AnswerBatch,
    Dialogue,
    answer_logits,
    dialogue,
    divergence,
    log_likelihoods,
    make_batch,
)
from pkedit.models.chat import ChatModel
from pkedit.models.sequences import by_length
from tiny import answer_log_likelihood, make_demonstrations, make_pairs


def dialogues(chat: ChatModel) -> list[Dialogue]:
    """Different prompt lengths and different answer lengths."""
    kept = [dialogue(chat, d.prompt.text, d.answer, limit=1 + i) for i, d in enumerate(make_demonstrations(4))]
    return kept + [dialogue(chat, pair.prompt.text, pair.safe) for pair in make_pairs(3)]


def batch_of(items: list[Dialogue], *, first_tokens: int = 2, first_weight: float = 5.0) -> AnswerBatch:
    return make_batch(items, first_tokens=first_tokens, first_weight=first_weight, device=torch.device("cpu"))


@torch.no_grad()
def test_batched_log_likelihoods_equal_single_ones(chat: ChatModel) -> None:
    items = dialogues(chat)
    assert len({len(item) for item in items}) > 2
    batch = batch_of(items)
    together = log_likelihoods(answer_logits(chat, batch), batch.target)
    alone = torch.cat([answer_log_likelihood(chat, item.prompt, item.answer) for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_token_used_as_padding_does_not_matter(chat: ChatModel) -> None:
    items = dialogues(chat)
    batch = batch_of(items)
    expected = answer_logits(chat, batch)
    for row, item in enumerate(items):
        batch.ids[row, len(item) :] = 77
    torch.testing.assert_close(answer_logits(chat, batch), expected, rtol=1e-5, atol=1e-6)


def test_weights_sum_to_one_in_each_dialogue_and_first_tokens_weigh_more(llama: ChatModel) -> None:
    items = dialogues(llama)
    batch = batch_of(items, first_tokens=2, first_weight=5.0)
    torch.testing.assert_close(batch.per_dialogue(torch.ones_like(batch.weight)), torch.ones(len(items)))
    for row, item in enumerate(items):
        own = batch.weight[batch.row == row]
        expected = torch.tensor([5.0 if place < 2 else 1.0 for place in range(len(item.answer))])
        torch.testing.assert_close(own, expected / expected.sum())


def test_without_extra_weight_the_mean_is_plain(llama: ChatModel) -> None:
    items = dialogues(llama)
    batch = batch_of(items, first_tokens=0, first_weight=9.0)
    values = torch.arange(len(batch.target), dtype=torch.float32)
    means = [values[batch.row == row].mean() for row in range(len(items))]
    torch.testing.assert_close(batch.per_dialogue(values), torch.stack(means))


def test_each_answer_token_is_predicted_from_the_place_before_it(llama: ChatModel) -> None:
    batch = batch_of(dialogues(llama))
    assert torch.equal(batch.ids[batch.row, batch.column + 1], batch.target)
    for row, item in enumerate(dialogues(llama)):
        assert batch.target[batch.row == row].tolist() == list(item.answer)
        assert batch.column[(batch.row == row) & (batch.place == 0)].tolist() == [len(item.prompt) - 1]


def test_a_dialogue_is_the_prompt_with_its_one_bos_and_the_answer_without(llama: ChatModel) -> None:
    item = dialogue(llama, "w1", "w2")
    assert item.prompt == tuple(llama.prompt_ids("w1"))
    assert item.answer == tuple(llama.answer_ids("w2"))
    assert sum(ids == llama.tokenizer.bos_token_id for ids in (*item.prompt, *item.answer)) == 1


@given(lengths=st.lists(st.integers(1, 60), max_size=40), tokens=st.integers(1, 200))
def test_batches_hold_every_index_once_and_keep_to_the_padded_size(lengths: list[int], tokens: int) -> None:
    groups = by_length(lengths, tokens=tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= tokens


def test_log_likelihoods_are_log_softmax_at_the_target() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(-1)[torch.arange(5), torch.tensor([0, 3, 8, 1, 1])]
    torch.testing.assert_close(log_likelihoods(logits, [0, 3, 8, 1, 1]), expected)


def test_divergence_is_the_kl_from_the_original_to_the_edited() -> None:
    generator = torch.Generator().manual_seed(0)
    original, edited = (torch.randn(4, 11, generator=generator) for _ in range(2))
    p, q = original.softmax(-1), edited.softmax(-1)
    torch.testing.assert_close(divergence(original, edited), (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(divergence(original, original), torch.zeros(4))
    assert (divergence(original, edited) > 0.05).all()
    assert not torch.allclose(divergence(original, edited), divergence(edited, original))


def test_divergence_has_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    edited = torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: divergence(original, logits), (edited,))


def test_divergence_is_computed_in_full_precision_whatever_the_passes_use() -> None:
    generator = torch.Generator().manual_seed(3)
    original = 8 * torch.randn(5, 400, generator=generator)
    edited = original + 0.05 * torch.randn(5, 400, generator=generator)
    expected = torch.nn.functional.kl_div(
        edited.double().log_softmax(-1), original.double().log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = divergence(original, edited)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-6)
