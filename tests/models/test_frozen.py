"""With its prompts frozen, a model answers as it does when an edit acts from the last prompt token on."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor, nn

from pkedit.edit.detector import where_answers_begin
from pkedit.edit.editor import edit
from pkedit.edit.hooked import HookedDelta
from pkedit.models.batches import AnswerBatch, Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.prefix import PrefixCache
from pkedit.models.read_prompts import ReadPrompts
from pkedit.settings import EditSettings
from tiny import (
    PLAIN_FAMILIES,
    SYSTEM_TEMPLATE,
    TEMPLATE,
    answer_log_likelihood,
    leftovers,
    make_chat,
    make_demonstrations,
    make_pairs,
    make_region,
)

TEMPLATES = {"own beginnings": TEMPLATE, "shared beginning": SYSTEM_TEMPLATE}
STEM = " ".join(f"w{number}" for number in range(100, 120))
LAYERS = 3


def prepared(
    chat: ChatModel, lowest_layer: int, read: ReadPrompts | None = None
) -> tuple[FrozenPrompts, list[Dialogue]]:
    """Five dialogues; with `read`, answers to all prompts but the first were sampled before, and filled it."""
    # The second, third and fifth begin alike; the third and the fifth are read later, for others.
    texts = [kept.prompt.text for kept in make_demonstrations(5)]
    texts = [f"{STEM} {text}" if place in (1, 2, 4) else text for place, text in enumerate(texts)]
    dialogues = [dialogue(chat, text, kept.answer) for text, kept in zip(texts, make_demonstrations(5), strict=True)]
    assert len({len(item.prompt) for item in dialogues}) > 2
    if read is not None:
        chat.generate(texts[1:], max_new_tokens=1, read=read)
        assert len(read) == 4
    frozen = FrozenPrompts(
        chat,
        dialogues,
        lowest_layer,
        first_tokens=2,
        first_weight=3.0,
        tokens_per_batch=60,
        keep_final=range(5),
        read=read,
    )
    frozen.prepare([0, 2, 4])
    frozen.prepare([1, 2, 3])
    return frozen, dialogues


def edited(chat: ChatModel, *layers: int) -> HookedDelta:
    hooked = HookedDelta(chat, make_region({layer: [2, 5] for layer in layers}), ("write", "read0"))
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(generator=generator)
    return hooked


def frozen_logits(chat: ChatModel, frozen: FrozenPrompts, group: list[int]) -> tuple[Tensor, AnswerBatch]:
    batch = frozen.batch(group)
    return chat.head(batch.at_answers(frozen.final_states(group, batch))), batch


@contextmanager
def acting_from(chat: ChatModel, hooked: HookedDelta, first: int) -> Generator[None]:
    """The edit on the tokens from `first` on: outputs of edited modules before it are put back."""
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        kept[module] = output

    def put_back(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([kept[module][:, :first], output[:, first:]], dim=1)

    modules = [
        module for layer, *_ in hooked.free for module in (chat.sites[layer].write, chat.sites[layer].reads[0].module)
    ]
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        with hooked.active():
            for module in modules:
                stack.callback(module.register_forward_hook(put_back).remove)
            yield


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("lowest_layer", range(LAYERS))
@pytest.mark.parametrize("read_before", [False, True])
def test_without_an_edit_nothing_changes(family: str, template: str, lowest_layer: int, read_before: bool) -> None:
    chat = make_chat(family, layers=LAYERS)
    chat.tokenizer.chat_template = TEMPLATES[template]
    read = ReadPrompts() if read_before else None
    with torch.no_grad():
        frozen, dialogues = prepared(chat, lowest_layer, read)
        assert not read
        for group in ([3, 0, 4], [1]):
            logits, batch = frozen_logits(chat, frozen, group)
            likelihood = logits.log_softmax(-1).gather(-1, batch.target.unsqueeze(-1)).squeeze(-1)
            expected = torch.cat([answer_log_likelihood(chat, *both(dialogues[index])) for index in group])
            torch.testing.assert_close(likelihood, expected, rtol=1e-4, atol=1e-4)
            kept = chat.head(torch.cat([frozen.original(index) for index in group]))
            torch.testing.assert_close(logits, kept, rtol=1e-4, atol=1e-4)
    assert leftovers(chat.model) == []


def both(item: Dialogue) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return item.prompt, item.answer


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("lowest_layer", [0, 1])
def test_an_edit_acts_from_the_last_prompt_token_on(chat: ChatModel, template: str, lowest_layer: int) -> None:
    chat = make_chat(chat.model.config.model_type, layers=LAYERS)
    chat.tokenizer.chat_template = TEMPLATES[template]
    with torch.no_grad():
        frozen, dialogues = prepared(chat, lowest_layer)
        hooked = edited(chat, lowest_layer, LAYERS - 1)
        unedited, _ = frozen_logits(chat, frozen, [1, 4])
        with hooked.active():
            logits, batch = frozen_logits(chat, frozen, [1, 4])
        for row, index in enumerate((1, 4)):
            item = dialogues[index]
            ids = torch.tensor([[*item.prompt, *item.answer]])
            last = len(item.prompt) - 1
            with acting_from(chat, hooked, last):
                expected = chat.model(ids, use_cache=False).logits[0, last:-1]
            torch.testing.assert_close(logits[batch.row == row], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, unedited, rtol=1e-2, atol=1e-2)


def test_an_edit_of_the_last_layer_has_the_gradient_of_the_whole_model(chat: ChatModel) -> None:
    with chat.frozen():
        frozen, dialogues = prepared(chat, 1)
        hooked = edited(chat, 1)

        def gradients(logits: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), list(hooked.free.values()))

        with hooked.active():
            logits, _ = frozen_logits(chat, frozen, [2, 0, 3])
            found = gradients(logits)
        with hooked.active():
            whole = [
                chat.model(torch.tensor([[*item.prompt, *item.answer]]), use_cache=False).logits[
                    0, len(item.prompt) - 1 : -1
                ]
                for item in (dialogues[index] for index in (2, 0, 3))
            ]
            expected = gradients(torch.cat(whole))
    for one, two in zip(found, expected, strict=True):
        assert two.abs().max() > 1e-5
        torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-5)


def test_each_prompt_is_read_once_and_later_only_its_answer_runs_in_the_upper_layers(llama: ChatModel) -> None:
    read: list[tuple[int, int]] = []
    handles = [
        site.write.register_forward_hook(
            lambda _, __, output, layer=site.layer: read.append((layer, output.shape[0] * output.shape[1]))
        )
        for site in llama.sites
    ]
    frozen, dialogues = prepared(llama, 1)
    assert {layer for layer, _ in read} == {0, 1}
    read.clear()
    frozen.prepare(range(5))
    assert read == []
    frozen.final_states([0, 1], frozen.batch([0, 1]))
    for handle in handles:
        handle.remove()
    assert read == [(1, 2 * max(len(dialogues[index].answer) for index in (0, 1)))]


def test_of_prompts_that_were_read_before_only_the_answers_run(llama: ChatModel) -> None:
    ran: list[int] = []
    dialogues = [dialogue(llama, text, "w8 w9") for text in ("w1", "w2 w3", f"{STEM} w4", f"{STEM} w5 w6")]
    read = ReadPrompts()
    llama.generate(["w2 w3", f"{STEM} w4", f"{STEM} w5 w6"], max_new_tokens=1, read=read)
    frozen = FrozenPrompts(llama, dialogues, 1, first_tokens=1, first_weight=1.0, tokens_per_batch=200, read=read)
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: ran.append(args[0].numel()))
    frozen.prepare([2])
    frozen.prepare(range(4))
    handle.remove()
    # The last token of each prompt, and of its answer all but the last.
    answer = len(dialogues[0].answer)
    whole = len(dialogues[0].prompt) + answer
    assert ran == [answer, 2 * answer, whole]


def test_an_edit_on_prompts_that_were_read_before_is_the_same(chat: ChatModel) -> None:
    pairs, kept = make_pairs(4), make_demonstrations(4)
    region = make_region({1: [2, 5]})
    settings = EditSettings(steps=3, precision="full", safe_tokens=3, seed=1)
    expected = edit(chat, region, pairs, kept, settings).delta
    read = ReadPrompts()
    chat.generate([one.prompt.text for one in (*pairs, *kept)], max_new_tokens=1, read=read)
    found = edit(chat, region, pairs, kept, settings, read=read).delta
    assert not read
    for part, change in expected.layers[0].change.items():
        assert change.abs().max() > 1e-3
        torch.testing.assert_close(found.layers[0].change[part], change, rtol=1e-3, atol=1e-5)


def test_what_some_prompts_begin_with_is_read_once_for_them(llama: ChatModel) -> None:
    ends = {"w1": 0, "w2 w3": 1, f"{STEM} w4 w5": 2, f"{STEM} w4 w6 w7": 3}
    dialogues = [dialogue(llama, text, "w8") for text in ends]
    read: list[int] = []
    frozen = FrozenPrompts(llama, dialogues, 1, first_tokens=1, first_weight=1.0, tokens_per_batch=200)
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    frozen.prepare([0, 2])
    frozen.prepare([1])
    frozen.prepare([2, 3])
    handle.remove()
    lengths = [len([*item.prompt, *item.answer]) for item in dialogues]
    # BOS, user mark, the stem and "w4"; the first prompt; both that have the stem; the second prompt.
    stem = 2 + len(STEM.split()) + 1
    assert read == [stem, lengths[0], 2 * (lengths[3] - stem), lengths[1]]


def test_prompts_of_one_token_more_than_the_shared_beginning_are_read_as_well(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = SYSTEM_TEMPLATE
    dialogues = [dialogue(llama, "w1 w2", answer) for answer in ("w3 w4", "w5", "w6 w7 w8")]
    frozen = FrozenPrompts(llama, dialogues, 1, first_tokens=1, first_weight=1.0, tokens_per_batch=200)
    with torch.no_grad():
        frozen.prepare(range(3))
        logits, batch = frozen_logits(llama, frozen, [0, 1, 2])
        expected = torch.cat([answer_log_likelihood(llama, *both(item)) for item in dialogues])
    likelihood = logits.log_softmax(-1).gather(-1, batch.target.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(likelihood, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [FrozenPrompts, PrefixCache])
def test_layers_whose_states_are_not_looked_at_need_not_run(kind: type[FrozenPrompts | PrefixCache]) -> None:
    chat = make_chat("llama", layers=LAYERS)
    dialogues = [dialogue(chat, kept.prompt.text, kept.answer) for kept in make_demonstrations(3)]
    cache = kind(chat, dialogues, 1, first_tokens=2, first_weight=3.0, tokens_per_batch=60, keep_final=range(3))
    cache.prepare(range(3))
    run: list[int] = []
    for layer, block in enumerate(chat.blocks):
        block.mlp.register_forward_hook(lambda _, __, output, layer=layer: run.append(layer))
    order, ended = where_answers_begin(chat, [1], cache, range(3))
    assert set(run) == {1}
    again, whole = where_answers_begin(chat, [1, LAYERS - 1], cache, range(3))
    assert order == again
    assert torch.equal(ended[1], whole[1])
    assert set(run) == {1, 2}


def test_answers_of_one_length_share_a_batch(llama: ChatModel) -> None:
    frozen, dialogues = prepared(llama, 1)
    groups = frozen.groups([0, 1, 2, 3, 4])
    assert sorted(index for group in groups for index in group) == [0, 1, 2, 3, 4]
    for group in groups:
        assert len({len(dialogues[index].answer) for index in group}) == 1


@torch.no_grad()
def test_of_the_answers_only_the_first_tokens_run_where_no_more_is_asked_for(llama: ChatModel) -> None:
    frozen, _ = prepared(llama, 1)
    whole, cut = frozen.batch([1, 3]), frozen.batch([1, 3], limit=1)
    assert cut.ids.shape[1] == 2
    with edited(llama, 1).active():
        expected = whole.at_answers(frozen.final_states([1, 3], whole))[whole.place == 0]
        assert torch.allclose(cut.at_answers(frozen.final_states([1, 3], cut)), expected, atol=1e-5)
