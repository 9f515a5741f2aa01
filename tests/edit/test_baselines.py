"""The baselines are the published ones, under the conditions of the method they are compared with."""

from dataclasses import dataclass

import pytest
import torch

from pkedit.edit.baselines import (
    DEMONSTRATIONS_PER_STEP,
    PAIRS_PER_STEP,
    REFUSAL_SUFFIX,
    dinm_settings,
    fixed_layer,
    suffixed,
)
from pkedit.edit.editor import EditResult, edit
from pkedit.locate.dinm import whole_layer
from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings
from tiny import changed_weights, make_chat, make_demonstrations, make_pairs, snapshot

OURS = EditSettings(precision="full", safe_tokens=7, seed=3)


def test_dinm_has_its_published_numbers() -> None:
    found = dinm_settings(OURS)
    assert found.learning_rate == 5e-4
    assert found.steps == 10
    assert found.safe_weight == 0.1
    assert found.harmless_weight == 1.0
    assert found.parts == ("write",)


def test_dinm_is_plain_fine_tuning_with_a_locality_loss() -> None:
    found = dinm_settings(OURS)
    assert not found.relative_learning_rate
    assert not found.warm_up_and_decay
    assert (found.threshold, found.first_tokens, found.unsafe_weight, found.norm_weight) == (0.0, 0, 0.0, 0.0)
    assert found.norm_limit is None


def test_only_the_released_code_has_a_locality_loss_without_gradient() -> None:
    assert dinm_settings(OURS).harmless_gradient
    assert not dinm_settings(OURS, as_released=True).harmless_gradient


def released(chat: ChatModel, *, reuse_prefix: bool) -> tuple[EditResult, int]:
    """DINM's edit as released, and how often its first layer ran."""
    settings = dinm_settings(OURS, as_released=True).model_copy(update={"reuse_prefix": reuse_prefix})
    ran: list[int] = []
    hook = chat.sites[0].write.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        return edit(chat, whole_layer(chat, 1), make_pairs(3), make_demonstrations(3), settings), len(ran)
    finally:
        hook.remove()


def test_as_released_every_step_runs_all_layers_and_only_the_time_differs(llama: ChatModel) -> None:
    assert dinm_settings(OURS).reuse_prefix
    assert not dinm_settings(OURS, as_released=True).reuse_prefix
    once, ran_once = released(llama, reuse_prefix=True)
    again, ran_again = released(llama, reuse_prefix=False)
    assert ran_once < len(again.history) <= ran_again
    torch.testing.assert_close(again.delta.layers[0].change, once.delta.layers[0].change, rtol=1e-3, atol=1e-6)


def test_the_conditions_of_the_run_are_kept() -> None:
    found = dinm_settings(OURS)
    assert (found.safe_tokens, found.seed, found.precision) == (7, 3, "full")


def test_no_step_sees_more_than_makes_up_the_examples_of_the_run() -> None:
    few = OURS.model_copy(update={"steps": 10, "pairs_per_step": 5, "demonstrations_per_step": 7})
    assert (dinm_settings(few).pairs_per_step, dinm_settings(few).demonstrations_per_step) == (5, 7)
    many = OURS.model_copy(update={"steps": 100, "pairs_per_step": 50, "demonstrations_per_step": 70})
    assert dinm_settings(many).pairs_per_step == PAIRS_PER_STEP
    assert dinm_settings(many).demonstrations_per_step == DEMONSTRATIONS_PER_STEP


def test_a_short_run_still_sees_an_example_a_step() -> None:
    found = dinm_settings(EditSettings(steps=1, pairs_per_step=1, demonstrations_per_step=1))
    assert found.pairs_per_step >= 1
    assert found.demonstrations_per_step >= 1


@pytest.mark.parametrize("as_released", [False, True])
def test_dinm_changes_the_whole_write_matrix_of_one_layer_and_nothing_else(llama: ChatModel, as_released: bool) -> None:
    settings = dinm_settings(OURS, as_released=as_released).model_copy(update={"tokens_per_batch": 16})
    delta = edit(llama, whole_layer(llama, 1), make_pairs(3), make_demonstrations(3), settings).delta
    before = snapshot(llama.model)
    with delta.applied_to(llama):
        assert changed_weights(llama.model, before) == ["model.layers.1.mlp.down_proj.weight"]
        moved = llama.sites[1].write_weight.detach() - before["model.layers.1.mlp.down_proj.weight"]
    assert (moved != 0).float().mean() > 0.99
    # Ten steps of Adam at 5e-4 move a weight by about 5e-3 at most.
    assert moved.abs().max() < 1e-2


@dataclass
class Layered:
    """Only the number of layers matters."""

    layers: int


@pytest.mark.parametrize(("layers", "expected"), [(32, 21), (30, 20), (2, 1), (1, 0)])
def test_ft_edits_layer_21_of_32_or_the_same_share_of_any_depth(layers: int, expected: int) -> None:
    assert fixed_layer(Layered(layers)) == expected  # type: ignore[arg-type]


def test_the_suffix_stands_behind_the_request_and_changes_no_word_of_it() -> None:
    assert suffixed("How?").startswith("How?")
    assert suffixed("How?").endswith(REFUSAL_SUFFIX)


def test_dinm_lowers_the_loss_of_the_safe_answers() -> None:
    chat = make_chat("llama")
    settings = dinm_settings(OURS).model_copy(update={"learning_rate": 5e-2})
    history = edit(chat, whole_layer(chat, 1), make_pairs(3), make_demonstrations(3), settings).history
    assert history[-1].safe < 0.8 * history[0].safe
    assert torch.isfinite(torch.tensor([losses.harmless for losses in history])).all()
