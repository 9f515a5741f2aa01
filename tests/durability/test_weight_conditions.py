"""Conditions on weights change exactly what they say."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pkedit.durability import weights
from pkedit.durability.conditions import CONDITIONS
from pkedit.durability.subject import NotMeasuredError, Subject
from pkedit.durability.weights import GROUP, round_in_groups, round_symmetric
from pkedit.errors import ModelLoadError
from tiny import changed_weights, make_chat, snapshot

MakeSubject = Callable[..., Subject]


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_cast_is_that_of_the_edited_weights_all_of_them(
    make_subject: MakeSubject, name: str, dtype: torch.dtype
) -> None:
    subject = make_subject()
    with subject.edited():
        wanted = {key: weight.to(dtype) for key, weight in snapshot(subject.chat.model).items()}
    with CONDITIONS[name](subject) as asked:
        now = dict(asked.chat.model.named_parameters())
        assert all(torch.equal(now[key].to(dtype), weight) for key, weight in wanted.items())
        # On a processor float16 is rounded to and not multiplied in, and the table says so.
        assert {weight.dtype for weight in now.values()} == ({dtype} if name == "bf16" else {torch.float32})
        assert ("rounded to float16" in asked.note) is (name == "fp16")


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75])
def test_merging_is_the_base_plus_a_share_of_the_delta(make_subject: MakeSubject, weight: float) -> None:
    subject = make_subject()
    site, edit = subject.chat.sites[1], subject.delta.layers[0]  # type: ignore[union-attr]
    base = site.write_vectors().clone()
    with CONDITIONS[f"merged-{weight}"](subject):
        wanted = base.clone()
        wanted[edit.neurons] += weight * edit.change["write"]
        assert torch.equal(site.write_vectors(), wanted)
    with pytest.raises(NotMeasuredError), CONDITIONS[f"merged-{weight}"](make_subject(unedited=True)):
        pass


def test_what_was_saved_and_loaded_is_bit_for_bit_the_edited_model(make_subject: MakeSubject) -> None:
    with CONDITIONS["reloaded"](make_subject()) as asked:
        assert asked.same_as_is
        assert "bit for bit" in asked.note


def test_what_comes_back_otherwise_is_asked_itself(make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_chat(seed=3, layers=5)
    monkeypatch.setattr(weights, "load_model", lambda *_, **__: other)
    with CONDITIONS["reloaded"](make_subject()) as asked:
        assert asked.chat is other
        assert not asked.same_as_is


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_quantising_rounds_the_matrices_of_the_layers_and_nothing_else(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch, family: str, bits: int
) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    subject = make_subject(make_chat(family, layers=5))
    chat = subject.chat
    with subject.edited():
        edited = snapshot(chat.model)
    with CONDITIONS[f"{bits}-bit"](subject) as asked:
        assert asked.simulated
        assert asked.note.startswith("round to nearest")
        changed = set(changed_weights(chat.model, edited))
        site = chat.sites[0]
        # A neuron's write vector is a column of the matrix: along a row of it, one output, few levels are left.
        for output in site.write_vectors().T[:4]:
            assert len(output.unique()) <= 2**bits
        assert any("attn" in name for name in changed)
    matrices = {name for name, weight in edited.items() if weight.dim() == 2 and (".layers." in name or ".h." in name)}
    assert changed == matrices


def test_rounding_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(5, 2 * GROUP + 7, generator=torch.Generator().manual_seed(0))
    error = (round_symmetric(weight) - weight).abs()
    assert (error <= weight.abs().amax(1, keepdim=True) / 127 / 2 + 1e-6).all()
    for start in (0, GROUP, 2 * GROUP):
        part: Tensor = weight[:, start : start + GROUP]
        rounded = round_in_groups(weight)[:, start : start + GROUP]
        step = (part.amax(1, keepdim=True) - part.amin(1, keepdim=True)) / 15
        assert ((rounded - part).abs() <= step / 2 + 1e-6).all()
        assert (rounded.amax(1) - part.amax(1)).abs().max() < 1e-5
    assert torch.equal(round_in_groups(torch.ones(2, 3)), torch.ones(2, 3))
    assert torch.equal(round_symmetric(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_bitsandbytes_is_used_where_it_is_installed(make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    other, given = make_chat(seed=3, layers=5), {}

    def load(path: str, **options: object) -> object:
        given.update(options)
        return other

    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(weights, "find_spec", lambda _: object())
    monkeypatch.setattr(weights, "version", lambda _: "9.9")
    monkeypatch.setattr(weights, "load_model", load)
    with CONDITIONS["4-bit"](make_subject()) as asked:
        assert asked.chat is other
        assert asked.note == "by bitsandbytes 9.9"
        assert not asked.simulated
    assert given["quantisation"] == "4bit"

    def fail(*_: object, **__: object) -> object:
        raise ModelLoadError("too odd")

    monkeypatch.setattr(weights, "load_model", fail)
    with pytest.raises(NotMeasuredError, match="bitsandbytes: too odd"), CONDITIONS["8-bit"](make_subject()):
        pass
