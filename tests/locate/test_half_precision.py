"""In 16 bits the same neurons are found and edits learn the same, however small the gradients are."""

import pytest
import torch

from pkedit.edit.editor import edit
from pkedit.errors import NonFiniteLossError, NonFiniteStatesError, RegionError
from pkedit.locate import trace as tracing
from pkedit.locate.locating import Located, locate, pair_dialogues
from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings, LocateSettings
from tiny import make_chat, make_demonstrations, make_pairs

PAIRS, KEPT = make_pairs(6), make_demonstrations(6)
LOCATE = LocateSettings(neurons=16, first_layer=0.0, last_layer=1.0, precision="full")
EDIT = EditSettings(steps=8, pairs_per_step=6, demonstrations_per_step=6, precision="full")
HALF = (torch.bfloat16, torch.float16)


def chat_in(dtype: torch.dtype, *, head: float = 1.0) -> ChatModel:
    """A random model; what its head is multiplied by, all gradients are multiplied by as well."""
    chat = make_chat("llama", layers=4, hidden=32, neurons=48)
    with torch.no_grad():
        chat.model.get_output_embeddings().weight.mul_(head)
    chat.model.to(dtype)
    return chat


def shared_neurons(one: Located, other: Located) -> int:
    return len({neuron.id for neuron in one.region.neurons} & {neuron.id for neuron in other.region.neurons})


# The last lies far below what float16 can hold of the gradients in the lower layers.
@pytest.mark.parametrize("head", [1.0, 1e-5])
@pytest.mark.parametrize("dtype", HALF)
def test_most_of_the_region_is_that_of_float32(dtype: torch.dtype, head: float) -> None:
    exact = locate(chat_in(torch.float32, head=head), PAIRS, KEPT, LOCATE)
    found = locate(chat_in(dtype, head=head), PAIRS, KEPT, LOCATE)
    assert shared_neurons(exact, found) >= 12
    assert all(torch.isfinite(mean).all() for mean in found.means)
    assert found.layer_weight_change == pytest.approx(exact.layer_weight_change, rel=0.1)


def test_in_float16_small_gradients_are_kept_by_scaling_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = 3e-7

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        chat = chat_in(dtype)
        margin = pair_dialogues(chat, PAIRS, limit=4)
        signs = [tiny, -tiny] * len(PAIRS)
        seen = tracing.trace(chat, margin, signs, first_tokens=3, first_weight=8.0, tokens_per_batch=1024, seed=0)
        return torch.cat([layer.gradient.sum(0) for layer in seen.layers])

    exact = gradient(torch.float32)
    assert (gradient(torch.float16) - exact).norm() < 0.2 * exact.norm()
    monkeypatch.setattr(tracing, "gradient_scale", lambda chat: 1.0)
    assert (gradient(torch.float16) - exact).norm() > 0.8 * exact.norm()


@pytest.mark.parametrize("dtype", HALF)
def test_an_edit_learns_as_in_float32(dtype: torch.dtype) -> None:
    exact, half = chat_in(torch.float32), chat_in(dtype)
    region = locate(exact, PAIRS, KEPT, LOCATE).region
    expected, learnt = (edit(chat, region, PAIRS, KEPT, EDIT) for chat in (exact, half))
    assert learnt.history[-1].safe == pytest.approx(expected.history[-1].safe, rel=0.1)
    assert learnt.history[-1].safe < 0.9 * learnt.history[0].safe
    for layer in learnt.delta.layers:
        for change in layer.change.values():
            assert change.dtype == torch.float32
            assert torch.isfinite(change).all()


def test_numbers_beyond_float16_are_an_error_and_no_region() -> None:
    chat = chat_in(torch.float16)
    with torch.no_grad():
        for site in chat.sites:
            site.write_vectors().mul_(1e4)
    with pytest.raises(RegionError, match=r"--dtype (float32|bfloat16)"):
        locate(chat, PAIRS, KEPT, LOCATE)
    region = locate(chat_in(torch.float32), PAIRS, KEPT, LOCATE).region
    with pytest.raises(NonFiniteStatesError, match="--dtype float32"):
        edit(chat, region, PAIRS, KEPT, EDIT)
    with pytest.raises(NonFiniteLossError, match="--dtype float32"):
        edit(chat, region, PAIRS, KEPT, EDIT.model_copy(update={"gate_detector": 0.0}))
