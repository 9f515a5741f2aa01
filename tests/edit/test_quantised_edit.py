"""An edit of quantised weights: learnt in full precision, acting beside them, gone when it is over."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.instance import InstanceEditor
from pkedit.edit.strength import choose_strength
from pkedit.errors import DeltaError
from pkedit.models import load_model
from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings, LocateSettings
from tiny import leftovers, make_demonstrations, make_pairs, make_region, save_chat

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: weights in 4 or 8 bits were not tried")

REGION = make_region({1: [2, 5, 90], 2: [7]})
EDIT = EditSettings(steps=8, pairs_per_step=6, demonstrations_per_step=6)
PAIRS, KEPT = make_pairs(6), make_demonstrations(6)


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    folder = save_chat(tmp_path_factory.mktemp("models") / "model", layers=4, hidden=64, neurons=128)
    return load_model(str(folder), quantisation=request.param, device="cpu")


def logits(chat: ChatModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = chat.model(torch.arange(3, 12)[None], use_cache=False).logits
    return result


def stored(chat: ChatModel) -> dict[str, Tensor]:
    weights = chat.model.state_dict().items()
    return {name: weight.detach().clone() for name, weight in weights if isinstance(weight, Tensor)}


def random_delta(chat: ChatModel) -> Delta:
    hooked = HookedDelta(chat, REGION, ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    return hooked.freeze()


def test_it_acts_as_the_trained_one_did_and_is_gone_afterwards(packed: ChatModel) -> None:
    before, plain = stored(packed), logits(packed)
    hooked = HookedDelta(packed, REGION, ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    with hooked.active():
        trained = logits(packed)
    delta = hooked.freeze()
    with delta.applied_to(packed):
        assert torch.equal(logits(packed), trained)
        assert not torch.allclose(trained, plain)
    assert torch.equal(logits(packed), plain)
    assert leftovers(packed.model) == []
    with pytest.raises(RuntimeError, match="body"), delta.applied_to(packed):
        raise RuntimeError("body")
    assert leftovers(packed.model) == []
    after = stored(packed)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_its_change_and_originals_are_in_full_precision(packed: ChatModel, tmp_path: Path) -> None:
    delta = random_delta(packed)
    for layer in delta.layers:
        assert {tensor.dtype for tensor in (*layer.change.values(), *layer.original.values())} == {torch.float32}
        expected = packed.places[layer.site].write_vectors()[layer.neurons]
        assert torch.equal(layer.original["write"], expected)
    delta.save(tmp_path / "delta.safetensors")
    with delta.applied_to(packed):
        expected = logits(packed)
    with Delta.load(tmp_path / "delta.safetensors").applied_to(packed):
        torch.testing.assert_close(logits(packed), expected, rtol=1e-4, atol=1e-4)


def test_writing_it_is_refused_and_taking_it_back_does_nothing(packed: ChatModel) -> None:
    delta, plain = random_delta(packed), logits(packed)
    with pytest.raises(DeltaError, match=r"are quantised, so that no edit can be written to them.*--base MODEL"):
        delta.apply(packed)
    delta.revert(packed)
    assert torch.equal(logits(packed), plain)


def test_an_edit_made_for_other_weights_is_refused_here_too(packed: ChatModel, tmp_path: Path) -> None:
    other = load_model(str(save_chat(tmp_path / "other", layers=4, hidden=64, neurons=128, seed=1)), device="cpu")
    with pytest.raises(DeltaError, match="not those this delta was made for"), random_delta(other).applied_to(packed):
        pass
    assert leftovers(packed.model) == []


@pytest.mark.parametrize("frozen", [True, False])
def test_an_edit_is_learnt_beside_them(packed: ChatModel, frozen: bool) -> None:
    before = stored(packed)
    result = edit(packed, REGION, PAIRS, KEPT, EDIT.model_copy(update={"frozen_prompts": frozen}))
    assert result.history[-1].safe < 0.95 * result.history[0].safe
    after = stored(packed)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    strength = choose_strength(packed, result.delta, [pair.prompt for pair in PAIRS[:2]], EDIT)
    assert strength.factor > 0
    assert leftovers(packed.model) == []


def test_a_single_instance_is_edited_beside_them(packed: ChatModel) -> None:
    locating = LocateSettings(neurons=4, first_layer=0.0, last_layer=1.0)
    result = InstanceEditor(packed, KEPT, locating, EDIT).edit(PAIRS[0])
    assert result.history[-1].safe < result.history[0].safe
    with result.delta.applied_to(packed):
        logits(packed)
