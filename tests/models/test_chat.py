"""Prompts carry one BOS, batches answer as single prompts do, and frozen() leaves no trace."""

import pytest
import torch

from pkedit.errors import ChatTemplateError, OutOfMemoryError
from pkedit.models import budgets
from pkedit.models.chat import ChatModel
from pkedit.models.unchanged import UnchangedLayers
from tiny import (
    PLAIN_FAMILIES,
    SAFE,
    SYSTEM,
    SYSTEM_TEMPLATE,
    TEMPLATE,
    make_chat,
    make_tokenizer,
    snapshot,
    token,
    words,
)

TEXTS = [words(count, seed=count) for count in (1, 9, 3, 3, 14, 6)]


def plain_greedy(chat: ChatModel, prompt: list[int], steps: int) -> list[int]:
    """Greedy decoding written out: one forward pass over everything for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(chat.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == token("</s>"):
                break
    return ids[len(prompt) :]


def test_a_prompt_has_exactly_one_bos_although_tokenizer_and_template_both_add_it(chat: ChatModel) -> None:
    ids = chat.prompt_ids("w1 w2")
    assert ids == [token(word) for word in ("<s>", "<user>", "w1", "w2", "</s>", "<assistant>")]
    assert chat.tokenizer("w1")["input_ids"][0] == token("<s>"), "the tokenizer no longer tempts to a second BOS"


def test_an_answer_has_no_bos_and_ends_the_turn_where_it_fits(llama: ChatModel) -> None:
    ids = [token("w1"), token("w2")]
    assert llama.answer_ids("w1 w2") == [*ids, token("</s>")]
    assert llama.answer_ids("w1 w2", limit=3) == [*ids, token("</s>")]
    assert llama.answer_ids("w1 w2", limit=2) == ids
    assert llama.answer_ids("w1 w2", limit=1) == ids[:1]
    assert llama.answer_ids("w1 w2", ended=False) == ids


def test_without_a_chat_template_the_message_names_the_option(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match="--chat-template"):
        llama.prompt_ids("w1")


@pytest.mark.parametrize("template", [TEMPLATE, SYSTEM_TEMPLATE], ids=["own beginnings", "shared beginning"])
def test_a_batch_of_different_lengths_answers_as_its_members_alone(chat: ChatModel, template: str) -> None:
    chat.tokenizer.chat_template = template
    together = chat.generate(TEXTS, max_new_tokens=8)
    alone = [chat.generate([text], max_new_tokens=8)[0] for text in TEXTS]
    assert together == alone
    assert chat.generate(TEXTS, max_new_tokens=8, batch_size=2) == alone
    assert len(set(alone)) > 1, "answers that are all equal could not show a mix-up"


@pytest.mark.parametrize("template", [TEMPLATE, SYSTEM_TEMPLATE], ids=["own beginnings", "shared beginning"])
def test_prompts_that_begin_as_some_others_do_are_answered_as_alone(chat: ChatModel, template: str) -> None:
    chat.tokenizer.chat_template = template
    stem, other = (" ".join(f"w{number}" for number in range(start, start + 20)) for start in (100, 130))
    texts = [f"{stem} w1", *TEXTS, f"{other} w2 w3", f"{stem} w4 w5 w6", f"{other} w7", f"{stem} w1", f"{stem} w8"]
    together = chat.generate(texts, max_new_tokens=8)
    assert together == [chat.generate([text], max_new_tokens=8)[0] for text in texts]
    assert together == chat.generate(texts, max_new_tokens=8, unchanged=UnchangedLayers(chat.blocks, 1))


def test_what_some_prompts_begin_with_is_read_once_for_them(llama: ChatModel) -> None:
    stem = " ".join(f"w{number}" for number in range(100, 120))
    read: list[int] = []
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    llama.generate(["w1", f"{stem} w2 w3", f"{stem} w4 w5"], max_new_tokens=1)
    handle.remove()
    # BOS, user mark and stem; then without the stem and without the last token, which begins the answer.
    ended = len(llama.prompt_ids("w1")) - 1
    assert read == [2 + len(stem.split()), ended, 2 * (ended - 1), 3]


def test_the_same_message_twice_is_answered_twice(chat: ChatModel) -> None:
    once = chat.generate(["w1 w2"], max_new_tokens=5)
    assert chat.generate(["w1 w2"] * 3, max_new_tokens=5) == once * 3


@pytest.mark.parametrize("template", [TEMPLATE, SYSTEM_TEMPLATE], ids=["own beginnings", "shared beginning"])
def test_generation_is_greedy_decoding_after_the_prompt(chat: ChatModel, template: str) -> None:
    chat.tokenizer.chat_template = template
    for text, answer in zip(TEXTS, chat.generate(TEXTS, max_new_tokens=5), strict=True):
        expected = plain_greedy(chat, chat.prompt_ids(text), 5)
        assert answer == chat.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_a_shared_beginning_is_read_once(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = SYSTEM_TEMPLATE
    shared = 1 + len(SYSTEM.split()) + 1  # BOS, system message, user mark
    read: list[int] = []
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    llama.generate(TEXTS, max_new_tokens=1)
    handle.remove()
    rest = max(len(llama.prompt_ids(text)) for text in TEXTS) - shared
    # The beginning, the rest of all prompts in one batch, and the last token of each, which begins the answer.
    assert read == [shared, len(TEXTS) * (rest - 1), len(TEXTS)]


@pytest.mark.parametrize("template", [TEMPLATE, SYSTEM_TEMPLATE], ids=["own beginnings", "shared beginning"])
def test_layers_below_a_change_run_once_and_the_answers_are_those_of_the_whole_model(
    chat: ChatModel, template: str
) -> None:
    chat.tokenizer.chat_template = template
    original = chat.generate(TEXTS, max_new_tokens=6)
    unchanged = UnchangedLayers(chat.blocks, 1)
    assert chat.generate(TEXTS, max_new_tokens=6, unchanged=unchanged) == original
    for factor in (-3.0, 5.0):
        with torch.no_grad():
            chat.sites[1].write_vectors().mul_(factor)
        expected = chat.generate(TEXTS, max_new_tokens=6)
        assert expected != original, "a change that shows nowhere proves nothing"
        run: list[int] = []
        handle = chat.sites[0].write.register_forward_pre_hook(lambda _, args, run=run: run.append(args[0].shape[1]))
        assert chat.generate(TEXTS, max_new_tokens=6, unchanged=unchanged) == expected
        handle.remove()
        # Of the first layer only what all prompts begin with is read again, and then token by token the answers.
        assert len([tokens for tokens in run if tokens > 1]) == (template is SYSTEM_TEMPLATE)
        # Others that were not seen before are read as ever.
        assert chat.generate(["w5 w6 w7"], max_new_tokens=6, unchanged=unchanged) == chat.generate(
            ["w5 w6 w7"], max_new_tokens=6
        )


def test_layers_below_a_change_run_once_behind_beginnings_that_prompts_share_too(chat: ChatModel) -> None:
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    start = words(40, seed=7)
    texts = [*TEXTS, *(f"{start} {words(count, seed=20 + count)}" for count in (2, 9, 5))]
    ran: list[int] = []
    chat.sites[0].write.register_forward_pre_hook(lambda _, args: ran.append(args[0].shape[0] * args[0].shape[1]))
    unchanged = UnchangedLayers(chat.blocks, 1)
    original = chat.generate(texts, max_new_tokens=6, unchanged=unchanged)
    assert original == chat.generate(texts, max_new_tokens=6)
    with torch.no_grad():
        chat.sites[1].write_vectors().mul_(5.0)
    expected = chat.generate(texts, max_new_tokens=6)
    assert expected != original
    ran.clear()
    assert chat.generate(texts, max_new_tokens=6, unchanged=unchanged) == expected
    # What all prompts begin with, and then the answers, a token of each at a time; neither the long beginning nor the
    # prompts.
    assert sum(ran) - ran[0] == len(texts) * (len(ran) - 1)
    assert ran[0] < 40


def test_where_the_room_for_remembered_prompts_is_full_the_others_are_read_as_ever(llama: ChatModel) -> None:
    known = UnchangedLayers(llama.blocks, 1)
    llama.generate(TEXTS[1:2], max_new_tokens=1, unchanged=known)
    ((one,),) = [list(known._known.values())]
    size = one.states.nbytes + sum(part.nbytes for layer in one.keys for part in layer)
    few = UnchangedLayers(llama.blocks, 1, limit=2 * size)
    original = llama.generate(TEXTS, max_new_tokens=6, unchanged=few)
    assert 0 < len(few._known) < len(TEXTS)
    assert llama.generate(TEXTS, max_new_tokens=6, unchanged=few) == original


def test_saved_sampling_defaults_do_not_make_answers_random(llama: ChatModel) -> None:
    greedy = llama.generate(TEXTS, max_new_tokens=8)
    llama.model.generation_config.update(do_sample=True, temperature=5.0, top_k=0)
    assert llama.generate(TEXTS, max_new_tokens=8) == greedy


def test_generation_reports_progress_up_to_the_number_of_prompts(llama: ChatModel) -> None:
    seen: list[tuple[int, int]] = []
    llama.generate(TEXTS, max_new_tokens=8, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    # Within a batch by the share of it that is done.
    assert {done for done, _ in seen} > {4, 6}
    assert seen == sorted(seen)
    assert seen[-1] == (6, 6)
    assert {total for _, total in seen} == {6}


def test_no_prompts_give_no_answers(llama: ChatModel) -> None:
    assert llama.generate([], max_new_tokens=3) == []


def test_the_batch_is_halved_when_memory_runs_out(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llama.generate(TEXTS, max_new_tokens=4)
    inner = llama.model.generate
    sizes: list[int] = []

    def scarce(*, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("full")
        return inner(input_ids=input_ids, **options)

    monkeypatch.setattr(llama.model, "generate", scarce)
    assert llama.generate(TEXTS, max_new_tokens=4, batch_size=8) == expected
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def test_batches_of_long_prompts_are_smaller(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llama.generate(TEXTS, max_new_tokens=4)
    lengths = sorted((len(llama.prompt_ids(text)) + 4 for text in TEXTS), reverse=True)
    assert lengths[0] > lengths[-1]
    inner = llama.model.generate
    sizes: list[int] = []

    def watched(*, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(input_ids))
        return inner(input_ids=input_ids, **options)

    monkeypatch.setattr(llama.model, "generate", watched)
    # Room for two of the longest; of shorter ones as many as fit.
    monkeypatch.setitem(budgets.WRITTEN_TOKENS, "cpu", 2 * lengths[0])
    assert llama.generate(TEXTS, max_new_tokens=4) == expected
    assert sizes[0] == 2
    assert sum(sizes) == len(TEXTS)
    assert all(size * lengths[sum(sizes[:place])] <= 2 * lengths[0] for place, size in enumerate(sizes))


def test_a_single_prompt_that_does_not_fit_is_an_error(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(llama.model, "generate", full)
    with pytest.raises(OutOfMemoryError, match="one prompt"):
        llama.generate(TEXTS, max_new_tokens=4)


def test_head_and_final_norm_are_the_end_of_the_models_own_forward(chat: ChatModel) -> None:
    ids = torch.tensor([chat.prompt_ids("w1 w2 w3")])
    states: list[torch.Tensor] = []
    handle = chat.blocks[-1].register_forward_hook(
        lambda _, __, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        expected = chat.model(ids).logits
        handle.remove()
        torch.testing.assert_close(chat.head(chat.final_norm(states[0])), expected)


def test_frozen_restores_requires_grad_and_train_mode(chat: ChatModel) -> None:
    parameters = list(chat.model.parameters())
    wanted = [index % 2 == 0 for index in range(len(parameters))]
    for parameter, flag in zip(parameters, wanted, strict=True):
        parameter.requires_grad_(flag)
    chat.model.train()
    with chat.frozen():
        assert not any(parameter.requires_grad for parameter in parameters)
        assert not any(module.training for module in chat.model.modules())
    assert [parameter.requires_grad for parameter in parameters] == wanted
    assert all(module.training for module in chat.model.modules())


def test_frozen_restores_even_when_the_body_raises(llama: ChatModel) -> None:
    llama.model.train()
    with pytest.raises(RuntimeError, match="body"), llama.frozen():
        raise RuntimeError("body")
    assert llama.model.training
    assert all(parameter.requires_grad for parameter in llama.model.parameters())


def test_frozen_restores_a_model_that_trains_only_in_part(llama: ChatModel) -> None:
    llama.model.eval()
    llama.blocks[1].train()
    before = [module.training for module in llama.model.modules()]
    with llama.frozen():
        pass
    assert [module.training for module in llama.model.modules()] == before


def test_generation_changes_no_weight(llama: ChatModel) -> None:
    before = snapshot(llama.model)
    llama.generate(TEXTS, max_new_tokens=2)
    assert all(torch.equal(before[name], weight) for name, weight in llama.model.named_parameters())


def test_counts_describe_the_whole_model(llama: ChatModel) -> None:
    assert llama.neurons == 48
    assert len(llama.blocks) == len(llama.sites) == 2
    assert llama.dtype == torch.float32
    assert llama.device.type == "cpu"


def test_the_tiny_tokenizer_knows_its_words() -> None:
    assert make_tokenizer()(SAFE, add_special_tokens=False)["input_ids"] == [token(SAFE)]
    assert make_chat("llama").tokenizer.unk_token_id == token("<unk>")


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((name, {}) for name in PLAIN_FAMILIES),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_the_head_gives_the_logits_of_the_model(family: str, config: dict[str, float]) -> None:
    chat = make_chat(family, **config)
    ids = torch.tensor([chat.prompt_ids(TEXTS[1])])
    with torch.no_grad():
        states = chat.body(input_ids=ids).last_hidden_state
        assert torch.allclose(chat.head(states), chat.model(input_ids=ids).logits, atol=1e-5)
