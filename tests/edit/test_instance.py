"""One instance is located and edited from the tokens that decide, and the model is left as it was."""

from typing import Any

import pytest
import torch

from pkedit.edit.editor import StepLosses, train
from pkedit.edit.examples import Example, make_examples
from pkedit.edit.instance import InstanceEditor, instance_editing, instance_locating
from pkedit.errors import TooFewPairsError
from pkedit.locate import instance
from pkedit.locate import trace as tracing
from pkedit.locate.instance import locate_instance, trace_harmless
from pkedit.locate.trace import trace
from pkedit.locate.utility import utilities
from pkedit.models.batches import Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import inputs_of
from pkedit.settings import EditSettings, LocateSettings
from tiny import (
    SYSTEM_TEMPLATE,
    answer_log_likelihood,
    changed_weights,
    leftovers,
    make_chat,
    make_demonstrations,
    make_pairs,
    planted_chat,
    snapshot,
)

LOCATE = LocateSettings(neurons=6, first_layer=0.0, last_layer=1.0, first_tokens=1, precision="full")
EDIT = EditSettings(
    steps=12, demonstrations_per_step=4, learning_rate=0.2, dropout=0.0, safe_tokens=3, precision="full", threshold=0.05
)


def likelihood(chat: ChatModel, prompt: str, answer: str) -> float:
    item = dialogue(chat, prompt, answer)
    with torch.no_grad():
        return float(answer_log_likelihood(chat, item.prompt, item.answer).mean())


def test_the_safe_answer_becomes_likelier_and_the_model_is_left_as_it_was(chat: ChatModel) -> None:
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    before = snapshot(chat.model)
    locate = LOCATE.model_copy(update={"neurons": 16})
    editor = InstanceEditor(chat, make_demonstrations(4), locate, EDIT)
    for pair in make_pairs(2):
        result = editor.edit(pair)
        assert changed_weights(chat.model, before) == []
        assert leftovers(chat.model) == []
        assert len(result.delta) == 16
        original = likelihood(chat, pair.prompt.text, pair.safe)
        with result.delta.applied_to(chat):
            assert likelihood(chat, pair.prompt.text, pair.safe) > original + 0.3


@pytest.mark.parametrize("unsafe_tokens", [1, 3])
def test_each_example_is_learnt_from_its_own_dialogue(
    llama: ChatModel, monkeypatch: pytest.MonkeyPatch, unsafe_tokens: int
) -> None:
    (pair,), kept = make_pairs(1), make_demonstrations(3)
    settings = EDIT.model_copy(update={"unsafe_tokens": unsafe_tokens})
    editor = InstanceEditor(llama, kept, LOCATE, settings)
    seen: list[tuple[Example, Dialogue]] = []

    def watched(
        chat: ChatModel, hooked: Any, cache: Any, examples: list[Example], *rest: Any
    ) -> tuple[StepLosses, ...]:
        seen.extend(zip(examples, cache._dialogues, strict=False))
        return train(chat, hooked, cache, examples, *rest)

    monkeypatch.setattr("pkedit.edit.instance.train", watched)
    editor.edit(pair)
    assert all(example.dialogue == dialogue for example, dialogue in seen)
    expected = make_examples(llama, [pair], kept, settings)
    assert sorted(map(repr, expected)) == sorted(repr(example) for example, _ in seen)


def test_an_instance_is_edited_the_same_whatever_was_edited_before(llama: ChatModel) -> None:
    first, second = make_pairs(2)
    alone = InstanceEditor(llama, make_demonstrations(3), LOCATE, EDIT).edit(second)
    editor = InstanceEditor(llama, make_demonstrations(3), LOCATE, EDIT)
    editor.edit(first)
    after = editor.edit(second)
    for one, other in zip(alone.delta.layers, after.delta.layers, strict=True):
        assert torch.equal(one.neurons, other.neurons)
        for part, change in one.change.items():
            torch.testing.assert_close(change, other.change[part])


@pytest.mark.parametrize(("layer", "index"), [(0, 9), (1, 7)])
def test_the_planted_neuron_is_located_on_one_instance(layer: int, index: int) -> None:
    planted = planted_chat(layer=layer, index=index)
    editor = InstanceEditor(planted.chat, make_demonstrations(6), LOCATE, EDIT.model_copy(update={"steps": 1}))
    editor.edit(make_pairs(1)[0])
    assert editor.region is not None
    assert (layer, index) in [(neuron.layer, neuron.index) for neuron in editor.region.neurons[:2]]


def test_weight_change_and_pathway_are_those_of_plain_autograd(llama: ChatModel) -> None:
    """Keys and values of the prompt stay as they were, so gradients of a pass with a detached cache are the truth."""
    editor = InstanceEditor(llama, make_demonstrations(3), LOCATE, EDIT)
    (pair,) = make_pairs(1)
    unsafe = dialogue(llama, pair.prompt.text, pair.unsafe, limit=LOCATE.tokens, ended=False)
    safe = dialogue(llama, pair.prompt.text, pair.safe, limit=EDIT.safe_tokens)
    cache, harmless = editor._cache, editor._harmless
    settings = LOCATE.model_copy(update={"neurons": 40})
    with llama.frozen():
        cache.take([0, 1], [safe, unsafe])
        region = locate_instance(llama, cache, 1, 0, harmless, settings).region
    writes = [site.write_weight for site in llama.sites]
    totals = [torch.zeros_like(weight) for weight in writes]
    pathway = [torch.zeros(site.neurons) for site in llama.sites]
    for item, sign in ((unsafe, 1.0), (safe, -1.0)):
        prompt = torch.tensor([item.prompt[:-1]])
        with torch.no_grad():
            known = llama.model(prompt, use_cache=True).past_key_values
        seen: list[torch.Tensor] = []
        handles = [
            site.write.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            for site in llama.sites
        ]
        ids = torch.tensor([[item.prompt[-1], *item.answer[:-1]]])
        logits = llama.model(ids, past_key_values=known).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        weight = torch.tensor(
            [LOCATE.first_weight if place < LOCATE.first_tokens else 1.0 for place in range(len(item.answer))]
        )
        score = sign * (logits[range(len(item.answer)), list(item.answer)] * weight).sum() / weight.sum()
        gradients = torch.autograd.grad(score, [*writes, *seen])
        for place, gradient in enumerate(gradients[: len(writes)]):
            totals[place] += gradient
        for place, (activation, gradient) in enumerate(zip(seen, gradients[len(writes) :], strict=True)):
            pathway[place] += ((activation - harmless.trace.layers[place].mean) * gradient).sum((0, 1)).detach()
    for neuron in region.neurons:
        site = llama.sites[neuron.layer]
        change = totals[neuron.layer][:, neuron.index].norm() / site.write_vectors()[neuron.index].norm()
        assert neuron.values["weight_tracking"] == pytest.approx(float(change.detach()), rel=1e-3)
        assert neuron.values["pathway"] == pytest.approx(float(pathway[neuron.layer][neuron.index]), rel=1e-3, abs=1e-6)


def test_what_is_compared_with_is_the_utility_of_harmless_answers_without_a_sketch(llama: ChatModel) -> None:
    items = [dialogue(llama, kept.prompt.text, kept.answer) for kept in make_demonstrations(3)]
    found = trace_harmless(llama, items, LOCATE, seed=0)
    options = {"first_tokens": LOCATE.first_tokens, "first_weight": LOCATE.first_weight, "tokens_per_batch": 1000}
    plain = trace(llama, items, [1.0] * 3, **options, seed=0)
    for utility, expected in zip(found.utility, utilities(plain), strict=True):
        torch.testing.assert_close(utility, expected)
    for seen, expected in zip(found.trace.layers, plain.layers, strict=True):
        torch.testing.assert_close(seen.mean, expected.mean)
        torch.testing.assert_close(seen.decision_mean, expected.decision_mean)
        assert len(seen.sketch) == 0
        assert len(seen.product) == len(seen.gradient) == 1


def test_no_more_of_the_answers_is_located_on_than_the_settings_say(
    llama: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair,) = make_pairs(1, answer_tokens=9)
    editor = InstanceEditor(llama, make_demonstrations(2), LOCATE.model_copy(update={"tokens": 4}), EDIT)
    seen: list[tuple[Dialogue, Dialogue]] = []

    def watched(chat: ChatModel, cache: Any, unsafe: int, safe: int, *rest: Any) -> Any:
        seen.append((cache._dialogues[unsafe], cache._dialogues[safe]))
        return locate_instance(chat, cache, unsafe, safe, *rest)

    monkeypatch.setattr("pkedit.edit.instance.locate_instance", watched)
    editor.edit(pair)
    ((unsafe, safe),) = seen
    assert list(unsafe.answer) == llama.answer_ids(pair.unsafe, limit=4, ended=False)
    assert list(safe.answer) == llama.answer_ids(pair.safe, limit=EDIT.safe_tokens)
    assert unsafe.prompt == safe.prompt == tuple(llama.prompt_ids(pair.prompt.text))


def test_progress_is_reported_after_every_step(llama: ChatModel) -> None:
    seen: list[tuple[StepLosses, int]] = []
    editor = InstanceEditor(llama, make_demonstrations(2), LOCATE, EDIT.model_copy(update={"steps": 3}))
    result = editor.edit(make_pairs(1)[0], progress=lambda losses, total: seen.append((losses, total)))
    assert seen == [(losses, 3) for losses in result.history]


@pytest.mark.parametrize(("threshold", "steps"), [(100.0, 1), (0.0, 3)])
def test_it_stops_once_the_hinge_is_met(llama: ChatModel, threshold: float, steps: int) -> None:
    settings = EDIT.model_copy(update={"steps": 3, "threshold": threshold})
    result = InstanceEditor(llama, make_demonstrations(2), LOCATE, settings).edit(make_pairs(1)[0])
    assert (len(result.history), result.stopped_early) == (steps, steps < 3)


@pytest.mark.parametrize("relative", [True, False])
def test_a_step_is_as_long_as_the_settings_say(llama: ChatModel, relative: bool) -> None:
    options = {"steps": 1, "parts": ("write",), "warm_up_and_decay": False, "relative_learning_rate": relative}
    editor = InstanceEditor(llama, make_demonstrations(2), LOCATE, EDIT.model_copy(update=options))
    (first, *_) = editor.edit(make_pairs(1)[0]).delta.layers
    size = first.original["write"].square().mean(1).sqrt() if relative else torch.ones(len(first.neurons))
    # The first step of Adam is as long as its rate, in every number.
    torch.testing.assert_close(
        first.change["write"].abs().amax(1) / size, torch.full_like(size, 0.2), rtol=1e-3, atol=0
    )


def test_what_gradients_are_multiplied_by_is_taken_out_again(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in float16, where the small ones would be lost."""

    def values() -> list[tuple[int, int, dict[str, float]]]:
        editor = InstanceEditor(llama, make_demonstrations(3), LOCATE, EDIT.model_copy(update={"steps": 1}))
        editor.edit(make_pairs(1)[0])
        assert editor.region is not None
        return [(neuron.layer, neuron.index, neuron.values) for neuron in editor.region.neurons]

    plain = values()
    for module in (instance, tracing):
        monkeypatch.setattr(module, "gradient_scale", lambda chat: 64.0)
    for (layer, index, expected), (*place, found) in zip(plain, values(), strict=True):
        assert place == [layer, index]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("first_tokens", [0, 1, 2, 9])
def test_selectivity_is_of_the_last_prompt_token_and_the_first_answer_tokens(
    llama: ChatModel, first_tokens: int
) -> None:
    settings = LOCATE.model_copy(update={"first_tokens": first_tokens, "neurons": 40})
    editor = InstanceEditor(llama, make_demonstrations(3), settings, EDIT)
    (pair,) = make_pairs(1)
    editor.edit(pair)
    item = dialogue(llama, pair.prompt.text, pair.unsafe, limit=settings.tokens, ended=False)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), inputs_of([site.write for site in llama.sites], lambda _, states: seen.append(states[0])):
        llama.body(input_ids=torch.tensor([[*item.prompt, *item.answer[:-1]]]), use_cache=False)
    begin = len(item.prompt) - 1
    assert editor.region is not None
    for neuron in editor.region.neurons:
        decision = seen[neuron.layer][begin : begin + 1 + first_tokens, neuron.index].mean()
        harmless = editor._harmless.trace.layers[neuron.layer]
        spread = harmless.decision_variance.maximum(harmless.decision_variance.median()).sqrt()
        expected = (decision - harmless.decision_mean[neuron.index]).abs() / spread[neuron.index]
        assert neuron.values["selectivity"] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_without_settings_it_edits_as_was_measured(llama: ChatModel) -> None:
    """The figures of the README are of these settings; who changes one of them measures anew."""
    assert instance_locating() == LocateSettings(neurons=32, first_layer=0.55, last_layer=0.75, pairs=2)
    assert instance_editing().model_dump(exclude_defaults=True) == {
        "steps": 2,
        "pairs_per_step": 1,
        "demonstrations_per_step": 2,
        "learning_rate": 0.7,
        "dropout": 0.0,
        "activation_noise": 0.0,
        "safe_tokens": 12,
        "harmless_tokens": 2,
        "first_tokens": 12,
        "first_weight": 4.0,
        "threshold": 0.1,
        "norm_limit": 4.0,
    }
    editor = InstanceEditor(make_chat("llama", layers=4, neurons=40), make_demonstrations(3))
    result = editor.edit(make_pairs(1)[0])
    assert len(result.delta) == 32
    assert {layer.layer for layer in result.delta.layers} == {2}
    assert 1 <= len(result.history) <= 2


def test_one_harmless_answer_is_too_few(llama: ChatModel) -> None:
    with pytest.raises(TooFewPairsError, match="at least two"):
        InstanceEditor(llama, make_demonstrations(1), LOCATE, EDIT)
