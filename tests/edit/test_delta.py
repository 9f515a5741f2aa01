"""An edit is a value: applied, reverted, scaled, added, saved, and refused where it does not belong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from architectures import make_architecture_chat
from pkedit.edit.delta import Delta, LayerDelta, part_names, vectors
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel
from tiny import changed_weights, make_chat, make_region, snapshot

IDS = torch.tensor([[0, 4, 9, 8, 30, 1, 5, 40]])
PARTS = ("write", "read0")


def random_delta(
    chat: ChatModel, neurons: dict[int, list[int]] | None = None, *, seed: int = 0, parts: tuple[str, ...] = PARTS
) -> Delta:
    hooked = HookedDelta(chat, make_region(neurons or {0: [2, 5], 1: [0, 7, 23]}), parts)
    generator = torch.Generator().manual_seed(seed)
    for free in hooked.free.values():
        free.data.normal_(generator=generator).mul_(0.3)
    return hooked.freeze()


@torch.no_grad()
def logits(chat: ChatModel) -> torch.Tensor:
    result: torch.Tensor = chat.model(IDS, use_cache=False).logits
    return result


def assert_equal(one: Delta, other: Delta) -> None:
    assert [layer.layer for layer in one.layers] == [layer.layer for layer in other.layers]
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert torch.equal(mine.neurons, theirs.neurons)
        assert mine.change.keys() == theirs.change.keys()
        for part in mine.change:
            assert torch.equal(mine.change[part], theirs.change[part])
            assert torch.equal(mine.original[part], theirs.original[part])
            assert mine.original[part].dtype == theirs.original[part].dtype


def broken(delta: Delta, value: float) -> Delta:
    change = {part: tensor.clone() for part, tensor in delta.layers[0].change.items()}
    change["write"][0, 0] = value
    return replace(delta, layers=(replace(delta.layers[0], change=change), *delta.layers[1:]))


def test_apply_changes_only_the_named_vectors_and_by_the_change(chat: ChatModel) -> None:
    before = make_chat(chat.model.config.model_type)
    delta = random_delta(chat)
    delta.apply(chat)
    for site, old in zip(chat.sites, before.sites, strict=True):
        layer = delta.layers[site.layer]
        for part, now, was in (
            ("write", site.write_vectors(), old.write_vectors()),
            ("read0", site.read_vectors(0), old.read_vectors(0)),
        ):
            moved = (now != was).any(dim=1).nonzero().flatten()
            assert torch.equal(moved, layer.neurons)
            torch.testing.assert_close((now - was)[moved], layer.change[part], rtol=1e-4, atol=1e-6)
    assert len(changed_weights(chat.model, snapshot(before.model))) == 4


def test_revert_gives_the_base_back_bit_for_bit(chat: ChatModel) -> None:
    before = snapshot(chat.model)
    delta = random_delta(chat)
    delta.apply(chat)
    assert len(changed_weights(chat.model, before)) == 4
    delta.revert(chat)
    assert changed_weights(chat.model, before) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_revert_is_exact_in_half_precision_too(dtype: torch.dtype) -> None:
    chat = make_chat("llama")
    chat.model.to(dtype)
    before = snapshot(chat.model)
    delta = random_delta(chat)
    assert {tensor.dtype for layer in delta.layers for tensor in layer.original.values()} == {dtype}
    assert {tensor.dtype for layer in delta.layers for tensor in layer.change.values()} == {torch.float32}
    for _ in range(3):
        delta.apply(chat)
        assert changed_weights(chat.model, before)
        delta.revert(chat)
        assert changed_weights(chat.model, before) == []


def test_applied_to_acts_inside_and_reverts_afterwards(chat: ChatModel) -> None:
    before, plain = snapshot(chat.model), logits(chat)
    with random_delta(chat).applied_to(chat):
        assert not torch.allclose(logits(chat), plain)
    assert changed_weights(chat.model, before) == []


def test_an_edit_made_in_bfloat16_goes_onto_the_same_weights_held_in_float32(llama: ChatModel) -> None:
    llama.model.to(torch.bfloat16)
    delta = random_delta(llama)
    llama.model.to(torch.float32)
    before = snapshot(llama.model)
    with delta.applied_to(llama):
        assert len(changed_weights(llama.model, before)) == 4
    assert changed_weights(llama.model, before) == []


def test_applied_to_reverts_when_the_body_raises(chat: ChatModel) -> None:
    before = snapshot(chat.model)
    with pytest.raises(RuntimeError, match="body"), random_delta(chat).applied_to(chat):
        raise RuntimeError("body")
    assert changed_weights(chat.model, before) == []


def test_applying_keeps_requires_grad_and_leaves_no_gradient(chat: ChatModel) -> None:
    for index, weight in enumerate(chat.model.parameters()):
        weight.requires_grad_(index % 2 == 0)
    wanted = [weight.requires_grad for weight in chat.model.parameters()]
    with random_delta(chat).applied_to(chat):
        assert [weight.requires_grad for weight in chat.model.parameters()] == wanted
    assert [weight.requires_grad for weight in chat.model.parameters()] == wanted
    assert all(weight.is_leaf and weight.grad is None for weight in chat.model.parameters())


def test_a_delta_counts_its_neurons_and_numbers(llama: ChatModel) -> None:
    delta = random_delta(llama, {0: [2, 5], 1: [0]})
    assert len(delta) == 3
    assert delta.parameters == 3 * 2 * 16
    assert delta.base == "tiny"


def test_scaling_scales_the_change_and_keeps_the_originals(llama: ChatModel) -> None:
    delta = random_delta(llama)
    for scaled in (delta * 0.5, 0.5 * delta):
        for mine, theirs in zip(scaled.layers, delta.layers, strict=True):
            for part in PARTS:
                assert torch.equal(mine.change[part], 0.5 * theirs.change[part])
                assert torch.equal(mine.original[part], theirs.original[part])
    plain = logits(llama)
    with (delta * 0.0).applied_to(llama):
        assert torch.equal(logits(llama), plain)
    with delta.applied_to(llama):
        whole = logits(llama)
    with (delta * 0.01).applied_to(llama):
        assert 0 < (logits(llama) - plain).abs().max() < 0.2 * (whole - plain).abs().max()


@pytest.mark.parametrize(
    "second",
    [{0: [1, 9], 1: [3]}, {0: [2, 9], 1: [7]}, {0: [2, 5], 1: [0, 7, 23]}, {1: [4]}],
    ids=["disjoint", "overlapping", "the same", "one layer"],
)
def test_the_sum_of_two_edits_of_one_base_adds_their_changes(chat: ChatModel, second: dict[int, list[int]]) -> None:
    first, other = random_delta(chat), random_delta(chat, second, seed=1)
    total = first + other
    before = snapshot(chat.model)
    expected = []
    for site in chat.sites:
        sums = {"write": site.write_vectors().detach().clone(), "read0": site.read_vectors(0).detach().clone()}
        for delta in (first, other):
            for layer in delta.layers:
                if layer.layer == site.layer:
                    for part in PARTS:
                        sums[part][layer.neurons] += layer.change[part]
        expected.append(sums)
    total.apply(chat)
    for site, sums in zip(chat.sites, expected, strict=True):
        torch.testing.assert_close(site.write_vectors(), sums["write"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(site.read_vectors(0), sums["read0"], rtol=1e-5, atol=1e-6)
    total.revert(chat)
    assert changed_weights(chat.model, before) == []
    for layer in total.layers:
        assert layer.neurons.tolist() == sorted(set(layer.neurons.tolist()))


@pytest.mark.parametrize("second", [{0: [1, 9]}, {0: [2, 9], 1: [7]}, {0: [2, 5], 1: [0, 7, 23]}])
def test_the_sum_of_an_edit_and_one_made_on_top_of_it_is_both(chat: ChatModel, second: dict[int, list[int]]) -> None:
    before = snapshot(chat.model)
    first = random_delta(chat)
    first.apply(chat)
    other = random_delta(chat, second, seed=1)
    other.apply(chat)
    both = logits(chat)
    other.revert(chat)
    first.revert(chat)
    assert changed_weights(chat.model, before) == []
    with (first + other).applied_to(chat):
        torch.testing.assert_close(logits(chat), both, rtol=1e-4, atol=1e-4)
    assert changed_weights(chat.model, before) == []


def test_a_sum_of_edits_in_half_precision_puts_every_bit_back(llama: ChatModel) -> None:
    llama.model.to(torch.bfloat16)
    total = random_delta(llama) + random_delta(llama, {0: [5, 9], 1: [7]}, seed=1)
    assert {original.dtype for layer in total.layers for original in layer.original.values()} == {torch.bfloat16}
    assert {change.dtype for layer in total.layers for change in layer.change.values()} == {torch.float32}
    assert total.dtype == "bfloat16"
    before = snapshot(llama.model)
    with total.applied_to(llama):
        assert len(changed_weights(llama.model, before)) == 4
    assert changed_weights(llama.model, before) == []


def test_adding_does_not_change_the_summands(llama: ChatModel) -> None:
    first, second = random_delta(llama), random_delta(llama, {0: [2]}, seed=1)
    kept = [tensor.clone() for layer in first.layers for tensor in layer.change.values()]
    _ = first + second
    assert all(
        torch.equal(old, now)
        for old, now in zip(kept, (t for layer in first.layers for t in layer.change.values()), strict=True)
    )


def test_different_parts_of_the_same_neurons_can_be_added(llama: ChatModel) -> None:
    total = random_delta(llama, {1: [3, 4]}, parts=("write",)) + random_delta(llama, {1: [3, 4]}, parts=("read0",))
    assert set(total.layers[0].change) == {"write", "read0"}
    before = snapshot(llama.model)
    with total.applied_to(llama):
        assert len(changed_weights(llama.model, before)) == 2
    assert changed_weights(llama.model, before) == []


def test_different_parts_of_different_neurons_cannot_be_added(llama: ChatModel) -> None:
    with pytest.raises(DeltaError, match="cannot be added"):
        _ = random_delta(llama, {1: [3]}, parts=("write",)) + random_delta(llama, {1: [4]}, parts=("read0",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_comes_back_from_its_file_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    chat = make_chat("llama")
    chat.model.to(dtype)
    delta = random_delta(chat)
    path = tmp_path / "delta.safetensors"
    delta.save(path, arm="pke", metrics={"asr": 0.5})
    loaded = Delta.load(path)
    assert_equal(loaded, delta)
    assert loaded.base == "tiny"
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["extra"]) == {"arm": "pke", "metrics": {"asr": 0.5}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["delta.safetensors"]
    before = snapshot(chat.model)
    with loaded.applied_to(chat):
        assert changed_weights(chat.model, before)
    assert changed_weights(chat.model, before) == []


def test_layers_keep_their_order_through_a_file(tmp_path: Path) -> None:
    chat = make_chat("llama", layers=12, hidden=8)
    delta = random_delta(chat, {layer: [layer] for layer in range(12)})
    delta.save(tmp_path / "delta.safetensors")
    assert [layer.layer for layer in Delta.load(tmp_path / "delta.safetensors").layers] == list(range(12))


def test_another_base_is_refused_and_left_alone(llama: ChatModel) -> None:
    delta = random_delta(llama)
    other = make_chat("llama", seed=1)
    before = snapshot(other.model)
    with pytest.raises(DeltaError, match="not those this delta was made for"):
        delta.apply(other)
    assert changed_weights(other.model, before) == []


def test_a_base_that_differs_only_in_the_last_layer_is_left_alone(llama: ChatModel) -> None:
    delta = random_delta(llama)
    with torch.no_grad():
        llama.sites[1].read_vectors(0)[23] += 1.0
    before = snapshot(llama.model)
    with pytest.raises(DeltaError, match="layer 1"):
        delta.apply(llama)
    assert changed_weights(llama.model, before) == []


def test_applying_twice_is_refused(llama: ChatModel) -> None:
    delta = random_delta(llama)
    delta.apply(llama)
    before = snapshot(llama.model)
    with pytest.raises(DeltaError, match="is another edit applied"):
        delta.apply(llama)
    assert changed_weights(llama.model, before) == []


@pytest.mark.parametrize(
    ("options", "message", "found"),
    [
        ({"layers": 1}, "2 layers, not 1", "the model has 1 layers"),
        ({"neurons": 12}, "48 MLP neurons, not 24", "has 12"),
        ({"hidden": 8}, "hidden size of 16, not 8", "not those"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    llama: ChatModel, options: dict[str, int], message: str, found: str
) -> None:
    delta, other = random_delta(llama, {1: [23]}), make_chat("llama", **options)
    with pytest.raises(DeltaError, match=message):
        delta.apply(other)
    # A delta from before the base's facts were kept is found out by what it changes.
    with pytest.raises(DeltaError, match=found):
        replace(delta, made_for=None).apply(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_delta_that_is_not_finite_is_refused_and_the_model_left_alone(llama: ChatModel, value: float) -> None:
    before = snapshot(llama.model)
    with pytest.raises(DeltaError, match=r"^layer 0: the delta holds NaN or Inf in write"):
        broken(random_delta(llama), value).apply(llama)
    assert changed_weights(llama.model, before) == []


@pytest.mark.parametrize("length", [0, 5, 100, -1, -400])
def test_a_truncated_file_is_refused(llama: ChatModel, tmp_path: Path, length: int) -> None:
    path = tmp_path / "delta.safetensors"
    random_delta(llama).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DeltaError, match=r"delta\.safetensors"):
        Delta.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(DeltaError, match="not a readable delta file"):
            Delta.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DeltaError, match="not a pkedit delta"):
        Delta.load(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    save_file({"layers.0.neurons": torch.zeros(1)}, path, {"format": "pkedit-delta", "schema_version": "999"})
    with pytest.raises(DeltaError, match="schema version 1"):
        Delta.load(path)


@pytest.mark.parametrize("names", [["odd"], ["layers.0.write.change"], ["layers.x.neurons"]])
def test_a_delta_file_with_parts_missing_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "delta.safetensors"
    header = {"format": "pkedit-delta", "schema_version": "1"}
    save_file({name: torch.zeros(1, 16) for name in names}, path, header)
    with pytest.raises(DeltaError, match=r"delta\.safetensors"):
        Delta.load(path)


def test_an_empty_delta_changes_nothing(llama: ChatModel) -> None:
    before = snapshot(llama.model)
    Delta(()).apply(llama)
    assert changed_weights(llama.model, before) == []
    total = Delta(()) + random_delta(llama)
    assert_equal(total, random_delta(llama))
    assert total.base == "tiny"


def test_layer_deltas_are_values(llama: ChatModel) -> None:
    layer = random_delta(llama).layers[0]
    assert isinstance(layer, LayerDelta)
    with pytest.raises(AttributeError):
        layer.layer = 3  # type: ignore[misc]


def expert_delta(chat: ChatModel) -> Delta:
    """Changes in a dense MLP, a shared one, and two routed experts of one layer."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for layer, expert in ((0, None), (1, None), (1, 0), (1, 3)):
        site, neurons = chat.places[layer, expert], torch.tensor([1, 4, 9])
        parts = part_names(site)
        original = {part: vectors(site, part)[neurons].detach().clone() for part in parts}
        change = {part: torch.randn(value.shape, generator=generator) for part, value in original.items()}
        layers.append(LayerDelta(layer, neurons, change, original, expert))
    return Delta(tuple(layers), base=chat.name)


def test_a_delta_of_experts_is_applied_saved_added_and_reverted(tmp_path: Path) -> None:
    chat = make_architecture_chat("deepseek_v3")
    delta = expert_delta(chat)
    before = snapshot(chat.model)
    with delta.applied_to(chat):
        after = snapshot(chat.model)
        for layer in delta.layers:
            for part, change in layer.change.items():
                now = vectors(chat.places[layer.site], part)[layer.neurons]
                torch.testing.assert_close(now, layer.original[part] + change)
        # Nothing beside these rows has moved.
        moved = sum(int((weight != before[name]).sum()) for name, weight in after.items())
        assert moved == delta.parameters
    assert changed_weights(chat.model, before) == []
    delta.save(tmp_path / "delta.safetensors")
    loaded = Delta.load(tmp_path / "delta.safetensors")
    assert [layer.site for layer in loaded.layers] == [(0, None), (1, None), (1, 0), (1, 3)]
    assert_equal(loaded, delta)
    with safe_open(tmp_path / "delta.safetensors", "pt") as file:
        assert {"layers.1.neurons", "layers.1.experts.3.neurons", "layers.1.experts.3.read1.change"} <= set(file.keys())
    first, second = Delta(delta.layers[::2], "tiny"), Delta(delta.layers[1::2], "tiny")
    assert_equal(second + first, delta)


def test_an_expert_that_the_model_does_not_have_is_refused(llama: ChatModel) -> None:
    chat = make_architecture_chat("deepseek_v3")
    before = snapshot(llama.model)
    with pytest.raises(DeltaError, match=r"changes layers\.1\.experts\.3, which the model does not have"):
        Delta(expert_delta(chat).layers[-1:]).apply(llama)
    assert changed_weights(llama.model, before) == []


def test_a_file_from_before_there_were_experts_loads(llama: ChatModel, tmp_path: Path) -> None:
    rows = llama.sites[1].write_vectors().detach()[[2, 5]].contiguous()
    tensors = {
        "layers.1.neurons": torch.tensor([2, 5]),
        "layers.1.write.change": torch.ones_like(rows),
        "layers.1.write.original": rows.clone(),
    }
    header = {"format": "pkedit-delta", "schema_version": "1", "base": "tiny", "extra": "{}"}
    save_file(tensors, tmp_path / "delta.safetensors", header)
    loaded = Delta.load(tmp_path / "delta.safetensors")
    assert [layer.site for layer in loaded.layers] == [(1, None)]
    with loaded.applied_to(llama):
        torch.testing.assert_close(llama.sites[1].write_vectors()[[2, 5]], rows + 1.0)
