"""A model spread over devices gives what it gives on one: everything of a layer lives where the layer does."""

import accelerate
import pytest
import torch

from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.instance import InstanceEditor
from pkedit.evaluate.drift import DriftMeter
from pkedit.locate.causal import CausalCheck, causal_check
from pkedit.locate.dinm import layer_distances
from pkedit.locate.locating import Located, locate
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import skipped_blocks
from pkedit.models.unchanged import UnchangedLayers
from pkedit.settings import EditSettings, LocateSettings
from tiny import (
    assemble,
    changed_weights,
    make_chat,
    make_demonstrations,
    make_model,
    make_pairs,
    make_region,
    snapshot,
)
from two_devices import FIRST, SECOND, Devices, label, put, spread, unlabelled


def on_two(layers: int = 4) -> ChatModel:
    model = make_model("llama", layers=layers, hidden=32, neurons=48)
    spread(model, at=layers // 2)
    return assemble(model)


def test_the_pretence_notices_what_two_devices_would() -> None:
    with Devices() as devices:
        here, there = torch.zeros(3, device=FIRST), torch.ones(3, device=SECOND)
        assert (here.device, there.device) == (FIRST, SECOND)
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat([here, there])
        with pytest.raises(RuntimeError, match="same device"):
            here + torch.zeros(3)
        with pytest.raises(RuntimeError, match="same device"):
            here[torch.tensor([0], device=SECOND)]
        assert (here + there.to(FIRST)).device == FIRST
        assert devices.moved == [FIRST]
        assert (here * torch.tensor(2.0)).device == FIRST
        assert here[torch.tensor([0, 1])].device == FIRST
        assert torch.zeros_like(there).device == there.new_zeros(2).device == SECOND
        assert there.cpu().device == torch.device("cpu")
        for part in there.split(1):
            assert label(part) == SECOND
    plain = torch.zeros(2)
    put(plain, FIRST)
    assert label(plain) == FIRST


def test_a_model_on_two_devices_runs_and_its_layers_lie_where_they_should() -> None:
    with Devices() as devices:
        chat = on_two()
        assert list(unlabelled(chat.model)) == []
        assert [site.device for site in chat.sites] == [FIRST, FIRST, SECOND, SECOND]
        assert chat.device == FIRST
        logits = chat.model(torch.arange(3, 9, device=FIRST)[None], use_cache=False).logits
        assert logits.device == FIRST
        assert SECOND in devices.moved


PAIRS, KEPT = make_pairs(6), make_demonstrations(6)
LOCATE = LocateSettings(neurons=16, first_layer=0.0, last_layer=1.0, random_regions=2, precision="full")
EDIT = EditSettings(steps=3, pairs_per_step=6, demonstrations_per_step=6, precision="full")


def on_one() -> ChatModel:
    return make_chat(layers=4, hidden=32, neurons=48)


def checked(chat: ChatModel, located: Located) -> CausalCheck:
    return causal_check(
        chat,
        located.region,
        located.means,
        located.margin,
        located.harmless,
        random_regions=2,
        first_tokens=3,
        first_weight=8.0,
        tokens_per_batch=1024,
        seed=0,
    )


def test_locating_and_the_causal_check_find_the_same() -> None:
    plain = on_one()
    expected = locate(plain, PAIRS, KEPT, LOCATE)
    with Devices():
        chat = on_two()
        found = locate(chat, PAIRS, KEPT, LOCATE)
        # Signals of a layer were computed where it lies, and nothing of it has been moved meanwhile.
        assert [label(mean) for mean in found.means] == [site.device for site in chat.sites]
        check = checked(chat, found)
    assert found.region == expected.region
    assert check.effect == pytest.approx(checked(plain, expected).effect, abs=1e-5)
    steps = locate(plain, PAIRS, KEPT, LOCATE.model_copy(update={"probe_steps": 2}))
    with Devices():
        assert locate(on_two(), PAIRS, KEPT, LOCATE.model_copy(update={"probe_steps": 2})).region == steps.region


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("lowest", [0, 1, 2, 3])
def test_an_edit_learns_the_same_wherever_its_layers_lie(frozen: bool, lowest: int) -> None:
    region = make_region({layer: [3, 7, 20] for layer in {lowest, 3}})
    settings = EDIT.model_copy(update={"frozen_prompts": frozen})
    expected = edit(on_one(), region, PAIRS, KEPT, settings)
    with Devices():
        chat = on_two()
        before = snapshot(chat.model)
        learnt = edit(chat, region, PAIRS, KEPT, settings)
        with learnt.delta.applied_to(chat):
            assert changed_weights(chat.model, before)
        assert changed_weights(chat.model, before) == []
    for mine, theirs in zip(learnt.delta.layers, expected.delta.layers, strict=True):
        for part, change in mine.change.items():
            torch.testing.assert_close(change, theirs.change[part], rtol=1e-3, atol=1e-4)
    assert [one.safe for one in learnt.history] == pytest.approx([one.safe for one in expected.history], rel=1e-4)


def test_a_single_instance_is_edited_the_same() -> None:
    locating = LOCATE.model_copy(update={"neurons": 4})
    expected = InstanceEditor(on_one(), KEPT, locating, EDIT).edit(PAIRS[0])
    with Devices():
        learnt = InstanceEditor(on_two(), KEPT, locating, EDIT).edit(PAIRS[0])
    assert [one.safe for one in learnt.history] == pytest.approx([one.safe for one in expected.history], rel=1e-3)


def test_answers_drift_and_distances_are_the_same() -> None:
    def seen(chat: ChatModel) -> tuple[list[str], object, torch.Tensor]:
        texts = [pair.prompt.text for pair in PAIRS]
        meter = DriftMeter(chat, KEPT, limit=4)
        delta = random_delta(chat)
        unchanged = UnchangedLayers(chat.blocks, 3)
        answers = chat.generate(texts, max_new_tokens=6, unchanged=unchanged)
        with delta.applied_to(chat):
            answers += chat.generate(texts, max_new_tokens=6, unchanged=unchanged)
            drift = meter.measure().divergence
        return answers, drift, layer_distances(chat, PAIRS[0], limit=4)

    plain = seen(on_one())
    with Devices():
        spread_out = seen(on_two())
    assert spread_out[0] == plain[0]
    assert spread_out[1] == pytest.approx(plain[1], rel=1e-3)
    torch.testing.assert_close(spread_out[2], plain[2])


def random_delta(chat: ChatModel) -> Delta:
    hooked = HookedDelta(chat, make_region({3: [2, 5]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.fill_(0.5)
    return hooked.freeze()


def test_blocks_are_skipped_and_given_back_with_accelerates_hooks_on_them() -> None:
    model = make_model("llama", layers=4)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    blocks = list(model.model.layers)
    for block in blocks:
        accelerate.hooks.add_hook_to_module(block, accelerate.hooks.AlignDevicesHook(execution_device="cpu"))
    own = [vars(block)["forward"] for block in blocks]
    chat = assemble(model)
    assert chat.cannot_skip is None
    assert [vars(block)["forward"] for block in blocks] == own
    states = torch.randn(1, 3, 16)
    with skipped_blocks(blocks[:2], states, as_tuple=lambda: False):
        assert torch.equal(blocks[0](torch.zeros(1, 3, 16)), states)
    assert [vars(block)["forward"] for block in blocks] == own
