"""An adapter is the edit exactly: PEFT alone loads it, its logits are the edit's, and merged it is the full export."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edited import FAMILIES, logits, make_run, plain, random_delta, save_model
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from checkpoints import write_gguf
from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.rebase import rebase
from pkedit.errors import DeltaError, ExportError, RunFolderError
from pkedit.export import adapter, lora, opened
from pkedit.export.adapter import export_adapter, write_adapter
from pkedit.export.full import export_full
from pkedit.models.loading import load_model
from pkedit.models.quantised import keep_differentiable
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import assemble, changed_weights, make_chat, make_model, make_region, save_chat, snapshot


@pytest.mark.parametrize(("family", "dtype"), [*((family, "float32") for family in FAMILIES), ("llama", "bfloat16")])
def test_it_is_the_edit_and_merged_it_is_the_full_export(tmp_path: Path, family: str, dtype: str) -> None:
    model = save_model(tmp_path / "base", family)
    folder, edited = make_run(tmp_path / "run", model, dtype=dtype)
    told: list[str] = []
    destination = export_adapter(folder, tmp_path / "adapter", tell=told.append)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    before = logits(base)
    acting = PeftModel.from_pretrained(base, destination)
    torch.testing.assert_close(logits(acting), edited, rtol=0, atol=1e-4 if dtype == "float32" else 0.3)
    assert (before - edited).abs().max() > 0.5
    merged = acting.merge_and_unload().state_dict()
    for name, weight in plain(export_full(folder, tmp_path / "full", check=False)).state_dict().items():
        assert torch.equal(merged[name], weight), name
    assert told[0].startswith("Checked on 8 prompts: ")


def test_every_matrix_has_the_rank_of_its_neurons_and_is_not_scaled(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base", layers=3))
    config = json.loads((export_adapter(folder, tmp_path / "adapter") / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 3, "base")
    ranks = {name: config["rank_pattern"].get(name, 3) for name in config["target_modules"]}
    names = ("down_proj", "gate_proj", "up_proj")
    assert ranks == {f"model.layers.{layer}.mlp.{name}": layer + 1 for layer in range(3) for name in names}
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert not config["use_rslora"]


def test_selectors_are_one_hot_and_changes_are_stored_as_they_are(tmp_path: Path) -> None:
    chat = make_chat("llama")
    targets = lora.lora_targets(random_delta(chat), chat)
    layer = random_delta(chat).layers[1]
    write, gate = (targets.modules[f"model.layers.1.mlp.{name}"] for name in ("down_proj", "gate_proj"))
    assert torch.equal(write.a, torch.eye(24)[layer.neurons])
    assert torch.equal(write.b, layer.change["write"].T)
    assert torch.equal(gate.a, layer.change["read0"])
    assert torch.equal(gate.b, torch.eye(24)[:, layer.neurons])


def test_the_base_is_loaded_once_and_its_weights_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Any, dict[str, Tensor]]] = []

    def load(*arguments: Any, **options: Any) -> Any:
        chat = load_model(*arguments, **options)
        loaded.append((chat.model, snapshot(chat.model)))
        return chat

    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    monkeypatch.setattr(opened, "load_model", load)
    export_adapter(folder, tmp_path / "adapter", check=False)
    ((model, before),) = loaded
    assert changed_weights(model, before) == []
    assert not any("lora" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_that_is_not_the_edit_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"), dtype=dtype)
    exact = lora.weight_change
    monkeypatch.setattr(lora, "weight_change", lambda *what: exact(*what) * 1.02)
    with pytest.raises(ExportError, match="the adapter is not the edit, and nothing was written"):
        export_adapter(folder, tmp_path / "exports" / "adapter")
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_peft_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(nn.Module):
        """A projection that is no linear layer."""

        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight.detach())

        def forward(self, states: Tensor) -> Tensor:
            return states @ self.weight.T

    model = make_model()
    for block in model.model.layers:
        block.mlp.down_proj = Odd(block.mlp.down_proj.weight)
    chat = assemble(model)
    with pytest.raises(ExportError, match=r"PEFT cannot put a LoRA on the MLPs of llama: Target module Odd.*--as full"):
        write_adapter(random_delta(chat), chat, tmp_path, base="tiny")
    with pytest.raises(ExportError, match="changes nothing"):
        write_adapter(Delta(()), chat, tmp_path, base="tiny")


def test_an_edit_that_peft_takes_in_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = make_chat("llama")
    whole = adapter.lora_config

    def partial(*what: Any) -> Any:
        config = whole(*what)
        config.target_modules = [name for name in config.target_modules if "layers.0" in name]
        return config

    monkeypatch.setattr(adapter, "lora_config", partial)
    with pytest.raises(ExportError, match=r"PEFT put no LoRA on model\.layers\.1\.mlp\.down_proj"):
        write_adapter(random_delta(chat), chat, tmp_path, base="tiny")
    assert not any("lora" in name for name, _ in chat.model.named_modules())


def test_an_edit_made_on_gguf_becomes_an_adapter_for_the_weights_it_came_from(tmp_path: Path) -> None:
    source, whole = write_gguf(tmp_path / "model.gguf"), save_chat(tmp_path / "whole", hidden=32, neurons=32)
    folder, _ = make_run(tmp_path / "run", source)
    chat = load_model(str(whole))
    with rebase(Delta.load(folder / "delta.safetensors"), chat).delta.applied_to(chat):
        edited = logits(chat.model)
    told: list[str] = []
    destination = export_adapter(folder, tmp_path / "adapter", base=str(whole), tell=told.append)
    acting = PeftModel.from_pretrained(plain(whole), destination)
    torch.testing.assert_close(logits(acting), edited, rtol=0, atol=1e-4)
    assert "put onto the weights of whole" in told[0]
    assert told[0] in (destination / "README.md").read_text()
    assert json.loads((destination / "adapter_config.json").read_text())["base_model_name_or_path"] == "whole"


def test_another_base_and_a_destination_in_use_are_refused(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    with pytest.raises(RunFolderError, match="not empty"):
        export_adapter(folder, tmp_path / "run")
    save_chat(tmp_path / "base", seed=1)
    with pytest.raises(DeltaError, match="not those this delta was made for"):
        export_adapter(folder, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_the_edit_of_a_quantised_model_is_an_adapter_beside_its_quantised_weights(tmp_path: Path) -> None:
    base = save_chat(tmp_path / "whole", hidden=64, neurons=64)
    packed = load_model(str(base), quantisation="4bit", device="cpu")
    hooked = HookedDelta(packed, make_region({0: [1, 9], 1: [4, 17, 30]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    delta = hooked.freeze()
    folder = tmp_path / "run"
    folder.mkdir()
    new_record(RunSettings(model=str(base), quantisation="4bit")).save(folder)
    delta.save(folder / "delta.safetensors")
    destination = export_adapter(folder, tmp_path / "adapter")
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=options, dtype=torch.float32)
    # On some processors bitsandbytes would round the base's scales at the first pass, edit or not.
    keep_differentiable(model)
    with delta.applied_to(packed):
        edited = logits(packed.model)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(model, destination)), edited, rtol=0, atol=1e-3)
