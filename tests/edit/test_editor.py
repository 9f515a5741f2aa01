"""An edit teaches the safe answer within its limits, each term of its loss counts, and the model stays as it was."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pkedit
from pkedit.edit.delta import Delta
from pkedit.edit.editor import EditResult, StepLosses, edit, noisy
from pkedit.edit.objective import unlikelihood
from pkedit.errors import NonFiniteLossError, RegionError, TooFewPairsError
from pkedit.models.batches import divergence
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import inputs_of
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import EditSettings
from tiny import (
    SAFE,
    UNSAFE,
    answer_log_likelihood,
    changed_weights,
    leftovers,
    make_chat,
    make_demonstrations,
    make_pairs,
    make_region,
    snapshot,
    token,
)

# Settings that let a random model learn by heart: no limit, and little weight on what is to be kept.
BY_HEART = {"steps": 40, "learning_rate": 0.2, "norm_limit": None, "harmless_weight": 0.1, "first_tokens": 1}
REGION = make_region({0: [2, 5], 1: [0, 7, 11, 23]})
IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5, 40]])


def settings(**changes: Any) -> EditSettings:
    """Few, large steps in full precision, from the model's own gates, all neurons at work and nothing shaken."""
    quiet = {"gate_detector": 0.0, "dropout": 0.0, "activation_noise": 0.0}
    return EditSettings(**{"precision": "full", **quiet, "steps": 12, "learning_rate": 0.1, **changes})


def test_noise_has_the_size_that_was_asked_for_and_is_on_no_other_pass(llama: ChatModel) -> None:
    clean: list[Tensor] = []
    shaken: list[Tensor] = []
    with torch.no_grad(), inputs_of([llama.blocks[1]], lambda _, states: clean.append(states)):
        llama.body(input_ids=IDS.repeat(40, 1))
    with (
        torch.no_grad(),
        noisy(llama.blocks[1], 0.3, torch.Generator().manual_seed(0)),
        inputs_of([llama.blocks[1]], lambda _, states: shaken.append(states)),
    ):
        llama.body(input_ids=IDS.repeat(40, 1))
    size = clean[0].square().mean(-1).sqrt()
    noise = (shaken[0] - clean[0]) / size.unsqueeze(-1)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(noise.mean())) < 0.01
    assert leftovers(llama.model) == []


def test_training_under_noise_is_repeatable_and_differs_from_training_without(llama: ChatModel) -> None:
    noisy_one, again, still = (run(llama, activation_noise=amount) for amount in (0.3, 0.3, 0.0))
    assert noisy_one.history == again.history
    assert noisy_one.history != still.history


def run(
    chat: ChatModel,
    pairs: int | Sequence[ContrastPair] = 3,
    demonstrations: int | Sequence[Demonstration] = 3,
    **changes: Any,
) -> EditResult:
    return edit(
        chat,
        REGION,
        make_pairs(pairs) if isinstance(pairs, int) else pairs,
        make_demonstrations(demonstrations) if isinstance(demonstrations, int) else demonstrations,
        settings(**changes),
    )


@torch.no_grad()
def safe_loss(chat: ChatModel, pairs: Sequence[ContrastPair]) -> float:
    """Mean NLL of the safe answers, by plain passes."""
    losses = [
        -answer_log_likelihood(chat, chat.prompt_ids(p.prompt.text), chat.answer_ids(p.safe)).mean() for p in pairs
    ]
    return float(torch.stack(losses).mean())


@torch.no_grad()
def opening(chat: ChatModel, pair: ContrastPair, word: str) -> float:
    """Probability that the answer begins with `word`."""
    logits = chat.model(torch.tensor([chat.prompt_ids(pair.prompt.text)])).logits[0, -1]
    return float(logits.softmax(-1)[token(word)])


@torch.no_grad()
def drift(chat: ChatModel, delta: Delta, kept: Sequence[Demonstration]) -> float:
    """Mean KL from the base to the edited model at the answer tokens of harmless answers."""
    total = 0.0
    for item in kept:
        prompt, answer = chat.prompt_ids(item.prompt.text), chat.answer_ids(item.answer)
        ids = torch.tensor([[*prompt, *answer]])
        before = chat.model(ids).logits[0, len(prompt) - 1 : -1]
        with delta.applied_to(chat):
            after = chat.model(ids).logits[0, len(prompt) - 1 : -1]
        total += float(divergence(before, after).mean())
    return total / len(kept)


def flat(delta: Delta) -> Tensor:
    return torch.cat([change.flatten() for layer in delta.layers for change in layer.change.values()])


def test_one_pair_is_enough_and_makes_its_safe_answer_likelier(llama: ChatModel) -> None:
    pairs = make_pairs(1)
    result = run(llama, pairs, 1, **BY_HEART)
    loss, likelihood = safe_loss(llama, pairs), opening(llama, pairs[0], SAFE)
    with result.delta.applied_to(llama):
        assert safe_loss(llama, pairs) < 0.6 * loss
        assert opening(llama, pairs[0], SAFE) > 5 * likelihood


def test_a_batch_of_pairs_is_learnt_together(llama: ChatModel) -> None:
    pairs = make_pairs(4)
    result = run(llama, pairs, **BY_HEART)
    before = safe_loss(llama, pairs)
    with result.delta.applied_to(llama):
        assert safe_loss(llama, pairs) < 0.75 * before
        assert all(opening(llama, pair, SAFE) > opening(llama, pair, UNSAFE) for pair in pairs)


def test_the_model_leaves_as_it_came(chat: ChatModel) -> None:
    chat.model.train()
    for index, weight in enumerate(chat.model.parameters()):
        weight.requires_grad_(index % 2 == 0)
    wanted = [weight.requires_grad for weight in chat.model.parameters()]
    before = snapshot(chat.model)
    run(chat)
    assert changed_weights(chat.model, before) == []
    assert [weight.requires_grad for weight in chat.model.parameters()] == wanted
    assert all(weight.grad is None for weight in chat.model.parameters())
    assert all(module.training for module in chat.model.modules())
    assert leftovers(chat.model) == []


def test_only_the_regions_neurons_and_the_wanted_parts_are_edited(chat: ChatModel) -> None:
    for parts in (("write",), ("write", "read0")):
        delta = run(chat, parts=parts).delta
        assert {layer.layer: layer.neurons.tolist() for layer in delta.layers} == REGION.by_layer()
        assert all(set(layer.change) == set(parts) for layer in delta.layers)
        assert all(change.any(dim=1).all() for layer in delta.layers for change in layer.change.values())
        before = snapshot(chat.model)
        with delta.applied_to(chat):
            assert len(changed_weights(chat.model, before)) == 2 * len(parts)


@pytest.mark.parametrize("relative", [True, False])
def test_no_vector_is_changed_beyond_the_norm_limit(llama: ChatModel, relative: bool) -> None:
    def longest(**changes: Any) -> float:
        delta = run(llama, learning_rate=0.5, relative_learning_rate=relative, **changes).delta
        return max(
            float((layer.change[part].norm(dim=1) / layer.original[part].norm(dim=1)).max())
            for layer in delta.layers
            for part in layer.change
        )

    assert longest(norm_limit=0.2) == pytest.approx(0.2, rel=1e-4)
    assert longest(norm_limit=None) > 0.5


def test_the_safe_term_alone_moves_the_weights(llama: ChatModel) -> None:
    only = {"unsafe_weight": 0.0, "harmless_weight": 0.0, "norm_weight": 0.0}
    assert flat(run(llama, steps=1, **only).delta).abs().max() > 1e-3
    assert not flat(run(llama, steps=1, safe_weight=0.0, **only).delta).any()


@pytest.mark.parametrize("unsafe_tokens", [1, 4])
def test_the_unsafe_term_alone_moves_the_weights_away_from_the_unsafe_answer(
    llama: ChatModel, unsafe_tokens: int
) -> None:
    pairs = make_pairs(2)
    result = run(
        llama,
        pairs,
        safe_weight=0.0,
        unsafe_weight=1.0,
        harmless_weight=0.0,
        norm_weight=0.0,
        unsafe_tokens=unsafe_tokens,
        unsafe_bound=1e-6,
        norm_limit=None,
        steps=10,
    )
    assert flat(result.delta).abs().max() > 1e-3
    before = [opening(llama, pair, UNSAFE) for pair in pairs]
    with result.delta.applied_to(llama):
        after = [opening(llama, pair, UNSAFE) for pair in pairs]
    assert sum(after) < 0.7 * sum(before)


def test_the_unsafe_term_leaves_answers_below_the_bound_alone(llama: ChatModel) -> None:
    bound = 2 * max(opening(llama, pair, UNSAFE) for pair in make_pairs(3))
    result = run(
        llama, safe_weight=0.0, unsafe_weight=1.0, unsafe_bound=bound, harmless_weight=0.0, norm_weight=0.0, steps=3
    )
    assert not flat(result.delta).any()


def test_the_unsafe_term_weighs_the_same_however_many_pairs_a_step_may_take(llama: ChatModel) -> None:
    few, many = (run(llama, 1, 1, steps=1, unsafe_bound=1e-6, pairs_per_step=count) for count in (1, 10))
    assert few.history == many.history
    assert torch.equal(flat(few.delta), flat(many.delta))


def test_the_harmless_term_has_no_gradient_before_anything_has_changed(llama: ChatModel) -> None:
    # Rounding leaves a trace of a gradient, which Adam would blow up to a whole step.
    result = run(llama, safe_weight=0.0, unsafe_weight=0.0, norm_weight=0.0, steps=1)
    assert result.history[0].harmless == pytest.approx(0.0, abs=1e-6)


def test_the_harmless_term_moves_the_weights_back_to_the_harmless_answers(llama: ChatModel) -> None:
    kept = make_demonstrations(3)
    without, with_it = (run(llama, 3, kept, harmless_weight=weight).delta for weight in (0.0, 20.0))
    assert not torch.allclose(flat(without), flat(with_it))
    assert drift(llama, with_it, kept) < 0.5 * drift(llama, without, kept)


def test_without_its_gradient_the_harmless_term_does_nothing(llama: ChatModel) -> None:
    none, idle, active = (
        run(llama, harmless_weight=weight, harmless_gradient=gradient)
        for weight, gradient in ((0.0, True), (20.0, False), (20.0, True))
    )
    torch.testing.assert_close(flat(idle.delta), flat(none.delta), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(flat(active.delta), flat(none.delta), rtol=1e-2, atol=1e-3)
    assert idle.history[-1].harmless > 0, "the term is reported although it pulls at nothing"


def test_without_its_gradient_a_batch_of_harmless_answers_alone_is_no_error(llama: ChatModel) -> None:
    one_by_one = run(llama, harmless_gradient=False, tokens_per_batch=1, steps=2)
    together = run(llama, harmless_gradient=False, tokens_per_batch=10_000, steps=2)
    torch.testing.assert_close(flat(one_by_one.delta), flat(together.delta), rtol=1e-2, atol=1e-3)


def test_the_norm_term_keeps_the_change_small(llama: ChatModel) -> None:
    none, strong = (run(llama, norm_weight=weight) for weight in (0.0, 50.0))
    assert strong.history[-1].norm < 0.5 * none.history[-1].norm


def test_the_first_step_reports_the_losses_of_the_unedited_model(llama: ChatModel) -> None:
    pairs = make_pairs(3)
    first = run(llama, pairs, threshold=0.0, first_tokens=0, unsafe_bound=1e-6).history[0]
    assert first.safe == pytest.approx(safe_loss(llama, pairs), rel=1e-4)
    likelihood = torch.tensor([opening(llama, pair, UNSAFE) for pair in pairs]).log()
    assert first.unsafe == pytest.approx(float(unlikelihood(likelihood, 1e-6).mean()), rel=1e-3)
    assert first.harmless == pytest.approx(0.0, abs=1e-6)
    assert (first.step, first.norm) == (0, 0.0)


def test_first_tokens_weigh_more_in_the_loss(llama: ChatModel) -> None:
    pairs = make_pairs(1)
    plain, weighted = (
        run(llama, pairs, threshold=0.0, first_tokens=1, first_weight=weight).history[0].safe for weight in (1.0, 1e6)
    )
    assert plain == pytest.approx(safe_loss(llama, pairs), rel=1e-4)
    first = -torch.tensor(opening(llama, pairs[0], SAFE)).log()
    assert weighted == pytest.approx(float(first), rel=1e-3)


def test_read_vectors_learn_at_a_rate_of_their_own(llama: ChatModel) -> None:
    def moved(part: str, rate: float) -> float:
        delta = run(llama, steps=1, read_rate=rate, harmless_weight=0.0, warm_up_and_decay=False).delta
        return sum(float(layer.change[part].abs().max()) for layer in delta.layers)

    # The first step of Adam is as long as its rate.
    assert moved("read0", 0.25) == pytest.approx(0.25 * moved("read0", 1.0), rel=1e-3)
    assert moved("write", 0.25) == pytest.approx(moved("write", 1.0), rel=1e-3)
    assert moved("read0", 0.0) == 0.0


def test_training_stops_when_every_pairs_hinge_is_met(llama: ChatModel) -> None:
    met = run(llama, threshold=100.0)
    assert (len(met.history), met.stopped_early) == (1, True)
    never = run(llama, threshold=0.0, steps=4)
    assert (len(never.history), never.stopped_early) == (4, False)
    # One pair a step: every pair must have been seen before the edit may stop.
    assert len(run(llama, 3, threshold=100.0, pairs_per_step=1).history) == 3


def test_the_batch_size_does_not_change_the_edit(chat: ChatModel) -> None:
    one_by_one, together = (run(chat, tokens_per_batch=tokens, steps=3) for tokens in (1, 10_000))
    for one, other in zip(one_by_one.history, together.history, strict=True):
        assert one.safe == pytest.approx(other.safe, rel=1e-3)
        assert one.unsafe == pytest.approx(other.unsafe, rel=1e-3, abs=1e-5)
    cosine = torch.nn.functional.cosine_similarity(flat(one_by_one.delta), flat(together.delta), dim=0)
    assert cosine > 0.99


def test_a_shared_system_message_does_not_change_what_is_learnt(chat: ChatModel) -> None:
    system = " ".join(f"w{number}" for number in range(50, 62))
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("{% for", f"{system}{{% for", 1)
    one_by_one, together = (run(chat, tokens_per_batch=tokens, steps=3) for tokens in (1, 10_000))
    for one, other in zip(one_by_one.history, together.history, strict=True):
        assert one.safe == pytest.approx(other.safe, rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(flat(one_by_one.delta), flat(together.delta), dim=0)
    assert cosine > 0.99


def test_the_seed_decides_the_edit_and_the_global_generator_does_not(llama: ChatModel) -> None:
    few = {"pairs_per_step": 1, "demonstrations_per_step": 1, "steps": 4}
    state = torch.get_rng_state()
    first = run(llama, 4, 4, **few)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = run(llama, 4, 4, **few), run(llama, 4, 4, seed=1, **few)
    torch.set_rng_state(state)
    assert torch.equal(flat(first.delta), flat(again.delta))
    assert first.history == again.history
    assert not torch.equal(flat(first.delta), flat(other.delta))


def test_progress_is_reported_after_every_step(llama: ChatModel) -> None:
    seen: list[tuple[StepLosses, int]] = []
    result = edit(
        llama,
        REGION,
        make_pairs(2),
        make_demonstrations(2),
        settings(steps=3),
        progress=lambda losses, total: seen.append((losses, total)),
    )
    assert seen == [(losses, 3) for losses in result.history]


@torch.no_grad()
def logits(chat: ChatModel) -> Tensor:
    result: Tensor = chat.model(IDS, use_cache=False).logits
    return result


@pytest.mark.parametrize("second", [{0: [2, 5], 1: [0, 7, 11, 23]}, {0: [9], 1: [7, 8]}])
def test_a_sequence_of_edits_adds_up(chat: ChatModel, second: dict[int, list[int]]) -> None:
    before = snapshot(chat.model)
    pairs = make_pairs(4)
    kept = make_demonstrations(2)
    first = edit(chat, REGION, pairs[:2], kept, settings()).delta
    first.apply(chat)
    other = edit(chat, make_region(second), pairs[2:], kept, settings()).delta
    other.apply(chat)
    both = logits(chat)
    after = safe_loss(chat, pairs[2:])
    other.revert(chat)
    first.revert(chat)
    assert changed_weights(chat.model, before) == []
    with (first + other).applied_to(chat):
        torch.testing.assert_close(logits(chat), both, rtol=1e-3, atol=1e-3)
        assert safe_loss(chat, pairs[2:]) == pytest.approx(after, rel=1e-3)
    assert changed_weights(chat.model, before) == []
    assert after < safe_loss(chat, pairs[2:])


def test_the_package_itself_is_the_function(llama: ChatModel) -> None:
    given = (llama, REGION, make_pairs(2), make_demonstrations(2), settings(steps=2))
    assert torch.equal(flat(pkedit.edit(*given).delta), flat(edit(*given).delta))


def test_reduced_precision_learns_the_same_thing(llama: ChatModel) -> None:
    pairs = make_pairs(2)
    delta = run(llama, pairs, precision="bfloat16", **BY_HEART).delta
    assert {change.dtype for layer in delta.layers for change in layer.change.values()} == {torch.float32}
    before = safe_loss(llama, pairs)
    with delta.applied_to(llama):
        assert safe_loss(llama, pairs) < 0.6 * before


def test_half_precision_weights_can_be_edited() -> None:
    chat = make_chat("llama")
    chat.model.to(torch.bfloat16)
    pairs = make_pairs(2)
    before, weights = safe_loss(chat, pairs), snapshot(chat.model)
    delta = run(chat, pairs, **BY_HEART).delta
    with delta.applied_to(chat):
        assert safe_loss(chat, pairs) < 0.6 * before
    assert changed_weights(chat.model, weights) == []


@pytest.mark.parametrize(("pairs", "demonstrations"), [(0, 3), (3, 0)])
def test_without_pairs_or_answers_to_keep_there_is_no_edit(llama: ChatModel, pairs: int, demonstrations: int) -> None:
    with pytest.raises(TooFewPairsError, match="at least one contrast pair"):
        run(llama, pairs, demonstrations)


def test_an_empty_region_is_refused(llama: ChatModel) -> None:
    with pytest.raises(RegionError, match="no neurons"):
        edit(llama, make_region({}), make_pairs(1), make_demonstrations(1), settings())


def assert_untouched(chat: ChatModel, before: dict[str, Tensor]) -> None:
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert chat.model.training
    assert all(weight.requires_grad for weight in chat.model.parameters())


def test_a_loss_that_is_nan_names_term_and_step_and_leaves_the_model_alone(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def breaking(original: Tensor, edited: Tensor) -> Tensor:
        calls.append(1)
        return divergence(original, edited) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr("pkedit.edit.editor.divergence", breaking)
    chat.model.train()
    before = snapshot(chat.model)
    with pytest.raises(NonFiniteLossError, match=r"harmless loss.*step 2.*--learning-rate") as caught:
        run(chat, tokens_per_batch=10_000)
    assert (caught.value.step, caught.value.term) == (2, "harmless")
    assert_untouched(chat, before)


def test_a_learning_rate_far_too_high_is_an_error_and_leaves_the_model_alone(llama: ChatModel) -> None:
    llama.model.train()
    before = snapshot(llama.model)
    with pytest.raises(NonFiniteLossError):
        run(llama, learning_rate=1e30, norm_limit=None, warm_up_and_decay=False)
    assert_untouched(llama, before)


def test_an_interrupted_edit_leaves_the_model_alone(llama: ChatModel) -> None:
    def interrupt(losses: StepLosses, _: int) -> None:
        if losses.step == 1:
            raise KeyboardInterrupt

    llama.model.train()
    before = snapshot(llama.model)
    with pytest.raises(KeyboardInterrupt):
        edit(llama, REGION, make_pairs(2), make_demonstrations(2), settings(), progress=interrupt)
    assert_untouched(llama, before)


def test_answers_longer_than_the_limits_are_cut(llama: ChatModel) -> None:
    pairs = make_pairs(1, answer_tokens=6)
    shorter = [replace(pairs[0], safe=" ".join(pairs[0].safe.split()[:2]))]
    # Two tokens are left of either, and no end of turn.
    long, short = (run(llama, given, 1, safe_tokens=2, steps=1) for given in (pairs, shorter))
    assert long.history == short.history


@pytest.mark.parametrize("frozen", [True, False])
def test_gates_start_open_for_harmful_prompts_and_closed_for_harmless_ones(llama: ChatModel, frozen: bool) -> None:
    pairs, kept = make_pairs(6), make_demonstrations(6)
    off = {"steps": 1, "learning_rate": 1e-9, "norm_limit": None, "frozen_prompts": frozen}
    (layer,) = edit(llama, make_region({1: [4]}), pairs, kept, settings(gate_detector=2.0, **off)).delta.layers
    entering: list[Tensor] = []
    with torch.no_grad(), inputs_of([llama.sites[1].reads[0].module], lambda _, states: entering.append(states[0, -1])):
        for item in (*pairs, *kept):
            llama.model(torch.tensor([llama.prompt_ids(item.prompt.text)]))
    read = torch.stack(entering) @ layer.change["read0"][0]
    assert read[:6].mean() == pytest.approx(2.0, abs=1e-3)
    assert read[6:].mean() < 1.0
