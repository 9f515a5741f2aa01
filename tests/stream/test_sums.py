"""The sum of a stream's edits, and edits that come out of it again: the base with the others, bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch

from pkedit.edit.delta import Delta, vectors
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import PkeditError, RunFolderError
from pkedit.models.chat import ChatModel
from pkedit.settings import RunSettings
from pkedit.stream import command
from pkedit.stream.command import take_out
from pkedit.stream.record import StreamRecord
from pkedit.stream.sums import added, largest_change, nothing, on_base
from tiny import changed_weights, make_chat, make_region, snapshot

FOUND = tuple[Path, StreamRecord]


def random_delta(chat: ChatModel, neurons: dict[int, list[int]], seed: int, size: float = 0.1) -> Delta:
    """Changes of the write vectors and gates of these neurons of each layer."""
    generator = torch.Generator().manual_seed(seed)
    hooked = HookedDelta(chat, make_region(neurons), ("write", "read0"))
    for free in hooked.free.values():
        free.data.copy_(size * torch.randn(free.shape, generator=generator))
    return hooked.freeze()


def weights_by_hand(chat: ChatModel, deltas: list[Delta]) -> dict[str, torch.Tensor]:
    """The base's weights with each edit's changes added to them, one neuron after another."""
    expected = snapshot(chat.model)
    totals: dict[tuple[int, str, int], torch.Tensor] = {}
    for delta in deltas:
        for layer in delta.layers:
            for part, change in layer.change.items():
                for row, neuron in zip(change, layer.neurons.tolist(), strict=True):
                    at = (layer.layer, part, neuron)
                    totals[at] = row if at not in totals else totals[at] + row
    for (layer, part, neuron), change in totals.items():
        site = chat.sites[layer]
        weight = site.write_weight if part == "write" else site.block.mlp.gate_proj.weight
        name = next(name for name, own in chat.model.named_parameters() if own is weight)
        rows = expected[name].T if part == "write" else expected[name]
        rows[neuron] += change
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_edit_made_on_others_is_kept_as_a_change_of_the_base(dtype: torch.dtype) -> None:
    chat = make_chat()
    chat.model.to(dtype)
    first = random_delta(chat, {0: [1, 4], 1: [2]}, seed=1)
    with first.applied_to(chat):
        second = random_delta(chat, {0: [4, 5]}, seed=2)
    rebased = on_base(chat, second)
    rebased.check(chat)
    for layer in rebased.layers:
        for part, original in layer.original.items():
            assert torch.equal(original, vectors(chat.sites[layer.layer], part).detach()[layer.neurons])
        assert all(torch.equal(layer.change[part], second.layers[0].change[part]) for part in layer.change)
    # The neuron that both touch has the originals of neither edited model.
    with pytest.raises(Exception, match="not those this delta was made for"):
        second.check(chat)


def test_the_sum_is_the_base_with_every_change_also_where_edits_share_neurons() -> None:
    chat = make_chat()
    own = [
        random_delta(chat, {0: [1, 4], 1: [2]}, 1),
        random_delta(chat, {0: [4, 5]}, 2),
        random_delta(chat, {1: [2]}, 3),
    ]
    before = snapshot(chat.model)
    total = added(own, nothing(chat))
    assert len(total) == 4
    for kept in (own, [own[0], own[2]], [own[1]], []):
        expected = weights_by_hand(chat, kept)
        with added(kept, nothing(chat)).applied_to(chat):
            assert changed_weights(chat.model, expected) == []
        assert changed_weights(chat.model, before) == []


def test_the_largest_change_is_that_of_the_sum() -> None:
    chat = make_chat()
    one = random_delta(chat, {0: [3]}, 1)
    ratios = [
        float(layer.change[part].norm() / layer.original[part].norm()) for layer in one.layers for part in layer.change
    ]
    assert largest_change(one) == pytest.approx(max(ratios))
    assert largest_change(one + one) == pytest.approx(2 * max(ratios))
    assert largest_change(nothing(chat)) == 0.0


@pytest.mark.usefixtures("tiny_words")
def test_an_edit_that_is_taken_out_leaves_the_base_with_the_others_in_whatever_order(
    finished: FOUND, stream_chat: ChatModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    whole = (folder / "delta.safetensors").read_bytes()
    own = {one.number: Delta.load(folder / one.file) for one in finished[1].edits}
    before = snapshot(stream_chat.model)
    record = take_out(folder, [2], chat=stream_chat)
    assert record.numbers == [1, 3]
    with Delta.load(folder / "delta.safetensors").applied_to(stream_chat):
        assert changed_weights(stream_chat.model, weights_by_hand_of(stream_chat, before, own, [1, 3])) == []
    without_two = (folder / "delta.safetensors").read_bytes()
    measured = record.found(3, [2])
    assert measured is not None
    assert measured.metrics["fixed"].n == 2
    # The prompt of what is out is still asked.
    assert sorted([*measured.held, *measured.lost]) == [1, 2, 3]
    take_out(folder, [3, 2], chat=stream_chat)
    both = (folder / "delta.safetensors").read_bytes()
    take_out(folder, [3], chat=stream_chat)
    take_out(folder, [2, 3, 2], chat=stream_chat)
    assert (folder / "delta.safetensors").read_bytes() == both
    take_out(folder, [2])
    assert (folder / "delta.safetensors").read_bytes() == without_two
    take_out(folder, [])
    assert (folder / "delta.safetensors").read_bytes() == whole
    everything = take_out(folder, [1, 2, 3], chat=stream_chat)
    assert Delta.load(folder / "delta.safetensors").layers == ()
    last = everything.found(3, [1, 2, 3])
    assert last is not None
    assert last.metrics["kl"].value == 0.0
    assert last.metrics["asr"] == everything.measured[0].metrics["asr"]
    assert "fixed" not in last.metrics
    assert changed_weights(stream_chat.model, before) == []


def weights_by_hand_of(
    chat: ChatModel, base: dict[str, torch.Tensor], own: dict[int, Delta], numbers: list[int]
) -> dict[str, torch.Tensor]:
    """`weights_by_hand`, of a model that is edited at the moment: on a copy of the base."""
    copy = make_chat(layers=3)
    with torch.no_grad():
        for name, weight in copy.model.named_parameters():
            weight.copy_(base[name])
    return weights_by_hand(copy, [own[number] for number in numbers])


@pytest.mark.usefixtures("tiny_words")
def test_only_edits_that_are_there_can_be_taken_out(finished: FOUND, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    with pytest.raises(PkeditError, match=r"--without 9: .* its edits are 1 to 3"):
        take_out(folder, [9])
    assert (folder / "delta.safetensors").read_bytes() == (finished[0] / "delta.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="no stream is there"):
        take_out(tmp_path / "nowhere", [1])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("tiny_words")
def test_whether_code_of_the_model_may_run_is_not_the_folders_to_say(
    finished: FOUND, stream_chat: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    index = folder / "index.json"
    index.write_text(index.read_text().replace('"trust_remote_code": false', '"trust_remote_code": true'))
    trusted: list[bool] = []

    def load(settings: RunSettings, *, trust_remote_code: bool) -> ChatModel:
        trusted.append(trust_remote_code)
        return stream_chat

    monkeypatch.setattr(command, "load_by", load)
    take_out(folder, [1])
    take_out(folder, [2], trust_remote_code=True)
    assert trusted == [False, True]


def test_another_base_is_refused(finished: FOUND, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    with pytest.raises(PkeditError, match="not those this delta was made for"):
        take_out(folder, [1], chat=make_chat(layers=3, seed=5))
