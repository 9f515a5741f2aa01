"""The floor of an edit step: the same examples and the same loss, whole matrices, and a model that stays."""

import pytest

from pkedit.bench.whole_matrices import matrices_of, train_whole_matrices
from pkedit.edit.editor import edit
from pkedit.edit.examples import make_examples
from pkedit.errors import PkeditError
from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings
from tiny import changed_weights, leftovers, make_demonstrations, make_pairs, make_region, snapshot

SETTINGS = EditSettings(
    activation_noise=0.0,
    parts=("write",),
    steps=1,
    gate_detector=0.0,
    dropout=0.0,
    safe_tokens=3,
    harmless_tokens=3,
    pairs_per_step=4,
    demonstrations_per_step=4,
    unsafe_bound=1e-6,
    tokens_per_batch=40,
    precision="full",
)


def test_the_loss_is_that_of_the_edit(chat: ChatModel) -> None:
    pairs, kept = make_pairs(), make_demonstrations()
    first = edit(chat, make_region({0: [1, 2]}), pairs, kept, SETTINGS).history[0]
    examples = make_examples(chat, pairs, kept, SETTINGS)
    trained = train_whole_matrices(chat, [0], examples, SETTINGS, steps=1, progress=lambda: None)
    assert trained.safe == pytest.approx(first.safe, rel=1e-4)
    assert trained.unsafe == pytest.approx(first.unsafe, rel=1e-4)
    assert trained.unsafe > 0.0
    assert trained.harmless == pytest.approx(first.harmless, abs=1e-5)


def test_the_model_is_as_it_was_and_the_state_is_that_of_whole_matrices(chat: ChatModel) -> None:
    before = snapshot(chat.model)
    wanted = {name: weight.requires_grad for name, weight in chat.model.named_parameters()}
    examples = make_examples(chat, make_pairs(), make_demonstrations(), SETTINGS)
    steps: list[int] = []
    trained = train_whole_matrices(chat, [1], examples, SETTINGS, steps=2, progress=lambda: steps.append(1))
    assert len(steps) == 2
    site = chat.sites_of(1)[0]
    assert trained.state_bytes == 3 * 4 * site.neurons * site.hidden
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    assert {name: weight.requires_grad for name, weight in chat.model.named_parameters()} == wanted
    assert all(weight.grad is None for weight in chat.model.parameters())


def test_matrices_are_those_of_the_parts(llama: ChatModel) -> None:
    found = matrices_of(llama, [0, 1], ("write", "read0"))
    mlps = [site.block.mlp for site in llama.sites]
    assert {id(weight) for weight in found} == {
        id(weight) for mlp in mlps for weight in (mlp.down_proj.weight, mlp.gate_proj.weight)
    }


def test_unsafe_answers_of_their_own_are_refused(llama: ChatModel) -> None:
    settings = SETTINGS.model_copy(update={"unsafe_tokens": 2})
    examples = make_examples(llama, make_pairs(), make_demonstrations(), settings)
    with pytest.raises(PkeditError, match="unsafe_tokens"):
        train_whole_matrices(llama, [0], examples, settings, steps=1, progress=lambda: None)
