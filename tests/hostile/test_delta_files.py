"""A delta that is no edit of this model is refused with the reason, and the model is left as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel
from tiny import changed_weights, make_chat, make_region, snapshot

Tensors = dict[str, Tensor]
Header = dict[str, str]
NEURONS, CHANGE, ORIGINAL = "layers.1.neurons", "layers.1.write.change", "layers.1.write.original"


def honest(chat: ChatModel) -> Delta:
    hooked = HookedDelta(chat, make_region({0: [3], 1: [2, 5, 9]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    return hooked.freeze()


def rewrite(path: Path, lie: Callable[[Tensors, Header], object]) -> Path:
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    lie(tensors, header)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, header)
    return path


def put(name: str, tensor: Tensor) -> Callable[[Tensors, Header], object]:
    return lambda tensors, _: tensors.update({name: tensor})


def say(name: str, value: str) -> Callable[[Tensors, Header], object]:
    return lambda _, header: header.update({name: value})


def numbers(tensor: list[int]) -> Tensor:
    return torch.tensor(tensor)


IN_FILE = {
    "NaN": (lambda t, h: t[CHANGE].fill_(float("nan")), "NaN or Inf in write"),
    "Inf": (lambda t, h: t[CHANGE].view(-1)[0].fill_(float("inf")), "NaN or Inf in write"),
    "NaN originals": (lambda t, h: t[ORIGINAL].view(-1)[0].fill_(float("nan")), "NaN or Inf in write"),
    "overflow": (lambda t, h: t[CHANGE].fill_(3.4e38) + t[ORIGINAL].fill_(3.4e38), "would be Inf"),
    "fewer rows": (lambda t, h: t.update({CHANGE: t[CHANGE][:2]}), "2 × 16 numbers"),
    "one row for all": (lambda t, h: t.update({CHANGE: t[CHANGE][:1]}), "1 × 16 numbers"),
    "another width": (lambda t, h: t.update({CHANGE: t[CHANGE][:, :8]}), "3 × 8 numbers"),
    "one number": (put(CHANGE, torch.zeros(())), "write changes one numbers"),
    "whole numbers": (put(CHANGE, torch.zeros(3, 16, dtype=torch.int8)), "which are no weights"),
    "a neuron twice": (put(NEURONS, numbers([2, 2, 9])), "named twice"),
    "out of order": (put(NEURONS, numbers([9, 5, 2])), "out of order"),
    "a negative neuron": (put(NEURONS, numbers([-3, 5, 9])), "neuron -3 cannot be"),
    "half a neuron": (put(NEURONS, torch.tensor([2.0, 5.0, 9.5])), "whole numbers"),
    "a table of neurons": (put(NEURONS, numbers([[2, 5, 9]])), "whole numbers"),
    "no neurons": (lambda t, h: t.pop(NEURONS), "is missing"),
    "no originals": (lambda t, h: t.pop(ORIGINAL), "is missing"),
    "no change": (lambda t, h: t.pop(CHANGE), "is missing"),
    "a tensor of another name": (put("lm_head.weight", torch.zeros(2)), "misnamed"),
    "a part of another name": (put("layers.1.up.change", torch.zeros(3, 16)), "misnamed"),
    "another spelling of a layer": (put("layers.01.neurons", numbers([1])), "misnamed"),
    "a negative layer": (put("layers.-1.neurons", numbers([1])), "misnamed"),
    "a path": (put("layers.1/../../x.neurons", numbers([1])), "misnamed"),
    "another schema": (say("schema_version", "2"), "schema version 1"),
    "no schema": (lambda t, h: h.pop("schema_version"), "schema version 1"),
    "another format": (say("format", "pt"), "not a pkedit delta"),
    "an unknown field": (say("colour", "red"), "unknown field 'colour'"),
    "damaged facts": (say("made_for", "[" * 100_000), "facts about the base model are damaged"),
    "endless facts": (say("made_for", '{"architecture": "llama", "vocabulary": 1e999}'), "damaged"),
    "facts of a later time": (lambda t, h: h.update(made_for=json.dumps({"x": 1})), "damaged"),
}
ON_MODEL = {
    "a neuron too many": (put(NEURONS, numbers([2, 5, 24])), "changes neuron 24 of .* which has 24"),
    "a huge neuron": (put(NEURONS, numbers([2, 5, 2**62])), "changes neuron 4611686018427387904"),
    "a layer too many": (lambda t, h: [t.update({n.replace(".1.", ".7."): t.pop(n)}) for n in [*t]], "layer 7"),
    "another width": (lambda t, h: [t.update({n: t[n][:, :8]}) for n in (CHANGE, ORIGINAL)], "not those"),
    "a part that is not there": (
        lambda t, h: [t.update({n.replace("read0", "read7"): t.pop(n)}) for n in [*t]],
        "read7",
    ),
    "another base": (lambda t, h: t[ORIGINAL].view(-1)[5].add_(1e-3), "not those this delta was made for"),
    "another order": (lambda t, h: t.update({ORIGINAL: t[ORIGINAL].flip(0)}), "not those this delta was made for"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    honest(make_chat()).save(tmp_path / "delta.safetensors")
    return tmp_path / "delta.safetensors"


@pytest.mark.parametrize("kind", IN_FILE)
def test_a_file_that_is_no_edit_of_any_model_is_refused(path: Path, kind: str) -> None:
    lie, said = IN_FILE[kind]
    with pytest.raises(DeltaError, match=said) as told:
        Delta.load(rewrite(path, lie))
    assert str(path) in str(told.value) or "facts" in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("kind", ON_MODEL)
def test_an_edit_of_another_model_is_refused_and_this_one_left_alone(path: Path, kind: str) -> None:
    lie, said = ON_MODEL[kind]
    chat, delta = make_chat(), Delta.load(rewrite(path, lie))
    before = snapshot(chat.model)
    for act in (delta.apply, delta.check):
        with pytest.raises(DeltaError, match=said):
            act(chat)
    with pytest.raises(DeltaError, match=said), delta.applied_to(chat):
        pass
    assert changed_weights(chat.model, before) == []


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (1e6, "would be Inf in torch.float16")])
def test_a_delta_made_in_memory_is_held_to_the_same(value: float, said: str) -> None:
    chat = make_chat()
    chat.model.half()
    delta = honest(chat)
    layers = tuple(replace(one, change={part: x * 0 + value for part, x in one.change.items()}) for one in delta.layers)
    before = snapshot(chat.model)
    with pytest.raises(DeltaError, match=said):
        replace(delta, layers=layers).apply(chat)
    assert changed_weights(chat.model, before) == []


@pytest.mark.parametrize("for_good", [True, False])
def test_an_interruption_while_it_is_written_leaves_nothing_behind(
    for_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = make_chat()
    delta, before = honest(chat), snapshot(chat.model)
    placed = Delta._placed

    def interrupted(self: Delta, chat: ChatModel) -> object:
        monkeypatch.setattr(Delta, "_placed", placed)
        yield next(iter(placed(self, chat)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Delta, "_check_writable", lambda *_: monkeypatch.setattr(Delta, "_placed", interrupted))

    def meanwhile() -> None:
        with delta.applied_to(chat):
            pytest.fail("the body must not run")

    write = (lambda: delta.apply(chat)) if for_good else meanwhile
    with pytest.raises(KeyboardInterrupt):
        write()
    assert changed_weights(chat.model, before) == []


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_the_same_base_in_another_dtype_is_the_same_base(stored: torch.dtype, tmp_path: Path) -> None:
    low = make_chat()
    low.model.to(stored)
    honest(low).save(tmp_path / "delta.safetensors")
    chat = make_chat()
    chat.model.to(stored).float()
    Delta.load(tmp_path / "delta.safetensors").apply(chat)
