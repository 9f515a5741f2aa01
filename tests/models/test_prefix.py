"""Running only the upper layers, and a shared beginning only once, gives the states and gradients of a full pass."""

from collections.abc import Sequence

import pytest
import torch

from pkedit.edit.hooked import HookedDelta
from pkedit.models.batches import AnswerBatch, Dialogue, answer_logits, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.prefix import PrefixCache
from tiny import (
    PLAIN_FAMILIES,
    SYSTEM,
    SYSTEM_TEMPLATE,
    TEMPLATE,
    leftovers,
    make_chat,
    make_demonstrations,
    make_region,
)

TEMPLATES = {"own beginnings": TEMPLATE, "shared beginning": SYSTEM_TEMPLATE}
LAYERS = 3


def prepared(chat: ChatModel, lowest_layer: int) -> tuple[PrefixCache, list[Dialogue]]:
    dialogues = [dialogue(chat, kept.prompt.text, kept.answer) for kept in make_demonstrations(5)]
    assert len({len(item) for item in dialogues}) > 2
    cache = PrefixCache(
        chat,
        dialogues,
        lowest_layer,
        first_tokens=2,
        first_weight=3.0,
        tokens_per_batch=60,
        keep_final=range(5),
    )
    cache.prepare([0, 2, 4])
    cache.prepare([1, 2, 3])
    return cache, dialogues


def edited(chat: ChatModel, layer: int) -> HookedDelta:
    """A δ that changes the last layer (and its own), large enough to be seen."""
    hooked = HookedDelta(chat, make_region({layer: [2, 5], LAYERS - 1: [1, 7]}), ("write", "read0"))
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(generator=generator)
    return hooked


def logits_and_gradients(
    chat: ChatModel, hooked: HookedDelta, batch: AnswerBatch, cache: PrefixCache | None, group: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with hooked.active():
        if cache is None:
            logits = answer_logits(chat, batch)
        else:
            logits = chat.head(batch.at_answers(cache.final_states(group, batch)))
    score = (logits.log_softmax(-1)[:, 7] * batch.weight).sum()
    return logits.detach(), list(torch.autograd.grad(score, list(hooked.free.values())))


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("lowest_layer", range(LAYERS))
def test_an_edits_states_and_gradients_equal_those_of_the_whole_model(
    family: str, template: str, lowest_layer: int
) -> None:
    chat = make_chat(family, layers=LAYERS)
    chat.tokenizer.chat_template = TEMPLATES[template]
    with chat.frozen():
        cache, _ = prepared(chat, lowest_layer)
        hooked = edited(chat, lowest_layer)
        for group in ([3, 0, 4], [1]):
            batch = cache.batch(group)
            logits, gradients = logits_and_gradients(chat, hooked, batch, cache, group)
            expected, expected_gradients = logits_and_gradients(chat, hooked, batch, None, group)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
            for gradient, wanted in zip(gradients, expected_gradients, strict=True):
                assert wanted.abs().max() > 1e-5
                torch.testing.assert_close(gradient, wanted, rtol=2e-3, atol=2e-5)
    assert leftovers(chat.model) == []


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("lowest_layer", [0, 2])
def test_what_is_kept_gives_back_the_original_logits(chat: ChatModel, template: str, lowest_layer: int) -> None:
    chat = make_chat(chat.model.config.model_type, layers=LAYERS)
    chat.tokenizer.chat_template = TEMPLATES[template]
    with torch.no_grad():
        cache, _ = prepared(chat, lowest_layer)
        hooked = edited(chat, lowest_layer)
        batch = cache.batch([4, 1])
        expected = answer_logits(chat, batch)
        with hooked.active():
            kept = chat.head(torch.cat([cache.original(index) for index in (4, 1)]))
            changed = answer_logits(chat, batch)
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(kept, changed, rtol=1e-2, atol=1e-2)


def test_only_the_upper_layers_run(llama: ChatModel) -> None:
    cache, _ = prepared(llama, 1)
    ran: list[int] = []
    handles = [
        site.write.register_forward_hook(lambda *_, layer=site.layer: ran.append(layer))  # type: ignore[misc]
        for site in llama.sites
    ]
    cache.final_states([0, 1], cache.batch([0, 1]))
    for handle in handles:
        handle.remove()
    assert ran == [1]


def test_the_shared_beginning_runs_once_for_the_whole_batch(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = TEMPLATES["shared beginning"]
    cache, dialogues = prepared(llama, 0)
    sizes: list[tuple[int, ...]] = []
    handle = llama.sites[0].write.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[:2])))
    group = [0, 1, 2]
    cache.final_states(group, cache.batch(group))
    handle.remove()
    longest = max(len(dialogues[index]) for index in group)
    assert len(sizes) == 2
    shared = sizes[0][1]
    assert shared > len(SYSTEM.split())
    assert sizes == [(1, shared), (3, longest - shared)]


def test_prompts_that_are_wholly_equal_still_leave_the_token_that_predicts_the_answer(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = TEMPLATES["shared beginning"]
    dialogues = [dialogue(llama, "w1 w2", answer) for answer in ("w3 w4", "w5", "w6 w7 w8")]
    cache = PrefixCache(llama, dialogues, 0, first_tokens=1, first_weight=1.0, tokens_per_batch=200)
    batch = cache.batch([0, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(
            llama.head(batch.at_answers(cache.final_states([0, 1, 2], batch))),
            answer_logits(llama, batch),
            rtol=1e-4,
            atol=1e-4,
        )
