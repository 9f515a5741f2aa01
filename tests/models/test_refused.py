"""A model that an edit would damage, or could not reach, is refused in one clear line and left as it was."""

import json
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from pkedit.errors import ModelLoadError
from pkedit.models import load_model
from pkedit.models.family import find_sites
from pkedit.models.refused import check_config, check_sites
from tiny import assemble, changed_weights, leftovers, make_model, make_tokenizer, save_chat, snapshot


def assert_refused(model: Any, match: str) -> None:
    """Refused by name, without a changed weight, a hook or a replaced forward left behind."""
    before, hooked = snapshot(model), leftovers(model)
    with pytest.raises(ModelLoadError, match=match):
        assemble(model)
    assert changed_weights(model, before) == []
    assert leftovers(model) == hooked


def test_layers_that_share_one_mlp_are_refused() -> None:
    model = make_model("llama", layers=3)
    model.model.layers[2].mlp = model.model.layers[1].mlp
    assert_refused(model, r"layer \d: its weights are in use elsewhere .*layers\.1\.mlp.*layers\.2\.mlp.*are the same")


def test_one_shared_matrix_is_enough() -> None:
    model = make_model("llama")
    model.model.layers[1].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight
    assert_refused(model, r"layers\.0\.mlp\.down_proj\.weight and .*layers\.1\.mlp\.down_proj\.weight are the same")


def test_two_parameters_on_the_same_memory_are_refused() -> None:
    model = make_model("llama")
    gate, up = model.model.layers[0].mlp.gate_proj, model.model.layers[0].mlp.up_proj
    # Not one parameter, and only in part the same numbers.
    both = nn.Parameter(torch.cat([gate.weight, up.weight]).detach())
    gate.weight, up.weight = nn.Parameter(both.data[:24]), nn.Parameter(both.data[20:44])
    assert_refused(model, r"layer 0: its weights are in use elsewhere .*gate_proj.*up_proj")


def test_an_mlp_weight_tied_to_the_embedding_is_refused() -> None:
    model = make_model("llama", neurons=209)
    model.model.layers[1].mlp.gate_proj.weight = model.get_input_embeddings().weight
    assert_refused(model, r"layer 1: .*embed_tokens\.weight and .*gate_proj\.weight are the same")


def test_neighbours_in_one_block_of_memory_and_tied_embeddings_are_fine() -> None:
    model = make_model("llama", tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    mlp = model.model.layers[0].mlp
    flat = torch.cat([mlp.gate_proj.weight.flatten(), mlp.up_proj.weight.flatten()]).detach()
    for part, projection in zip(flat.view(2, 24, 16), (mlp.gate_proj, mlp.up_proj), strict=True):
        projection.weight = nn.Parameter(part)
    assert len(assemble(model).sites) == 2


def test_a_model_with_a_lora_adapter_says_to_merge_it() -> None:
    adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["down_proj"], r=2)
    wrapped: Any = get_peft_model(make_model("llama"), adapter)
    assert_refused(wrapped, r"wrapped by PEFT \(PeftModelForCausalLM\).*merge_and_unload")
    # Injected into the model itself, as transformers does with an adapter from a folder.
    injected = make_model("llama")
    injected.add_adapter(adapter)
    assert_refused(injected, "wrapped by PEFT .*merge_and_unload")
    assert len(assemble(wrapped.merge_and_unload()).sites) == 2


def test_a_folder_with_an_adapter_alone_says_to_merge_it(tmp_path: Path) -> None:
    adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["down_proj"], r=2)
    get_peft_model(make_model("llama"), adapter).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelLoadError, match="holds a PEFT adapter; merge it"):
        load_model(str(tmp_path / "adapter"))


def test_a_compiled_model_says_to_pass_the_original() -> None:
    model = make_model("llama")
    assert_refused(torch.compile(model), "it is compiled by torch.compile.*pass the original")
    model.model.layers[1] = torch.compile(model.model.layers[1])
    assert_refused(model, r"its part model\.layers\.1 is compiled")
    in_place = make_model("llama")
    in_place.compile()
    assert_refused(in_place, "it is compiled by torch.compile")


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "compressed-tensors", "aqlm"])
def test_a_quantisation_without_a_dequantiser_is_refused_before_anything_is_loaded(tmp_path: Path, method: str) -> None:
    folder = save_chat(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=f"is quantised by {method}, for which there is no de-quantiser"):
        load_model(str(folder))


def test_weights_that_are_no_plain_numbers_are_refused_wherever_they_come_from() -> None:
    packed = make_model("llama")
    for layer in packed.model.layers:
        layer.mlp.down_proj = Packed()
    with pytest.raises(ModelLoadError, match="Packed has no weight tensor: it is quantised"):
        assemble(packed)
    narrow = make_model("llama")
    for layer in narrow.model.layers:
        weight = layer.mlp.down_proj.weight.to(torch.float8_e4m3fn)
        layer.mlp.down_proj.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ModelLoadError, match=r"weights in torch\.float8_e4m3fn: it is quantised"):
        assemble(narrow)


class Packed(nn.Module):
    """As GPTQ and AWQ keep their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.qweight = nn.Buffer(torch.zeros(2, 16, dtype=torch.int32))


def test_what_is_quantised_already_is_not_quantised_again() -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    check_config("some/model", config, trust_remote_code=False, quantisation=None)
    with pytest.raises(ModelLoadError, match="some/model is quantised already, by bitsandbytes"):
        check_config("some/model", config, trust_remote_code=False, quantisation="8bit")


def test_a_layer_on_more_than_one_device_is_named() -> None:
    model = make_model("llama")
    sites = find_sites(model)
    model.model.layers[1].self_attn.to("meta")
    with pytest.raises(ModelLoadError, match=r"layer 1 lies on mixed devices \(cpu and meta\)"):
        check_sites(sites, model)


@pytest.mark.parametrize("where", ["main memory", "disk"])
def test_weights_that_are_fetched_in_every_pass_are_refused_with_advice(tmp_path: Path, where: str) -> None:
    model = make_model("llama")
    if where == "disk":
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ModelLoadError, match=r"does not fit: 21 of its weights .*--dtype.*--load-in.*--device auto"):
        assemble(model)


CONFIGURATION = """
from transformers import LlamaConfig
class CustomConfig(LlamaConfig):
    model_type = "custom_llama"
"""
MODELLING = """
from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_custom import CustomConfig
Path({mark!r}).write_text("code of the model has run")
class CustomForCausalLM(LlamaForCausalLM):
    config_class = CustomConfig
"""


def save_custom(folder: Path, mark: Path) -> Path:
    """A model that brings its own code, which leaves a file where it runs."""
    save_chat(folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {
        "model_type": "custom_llama",
        "architectures": ["CustomForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_custom.CustomConfig",
            "AutoModelForCausalLM": "modeling_custom.CustomForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "configuration_custom.py").write_text(CONFIGURATION)
    (folder / "modeling_custom.py").write_text(MODELLING.format(mark=str(mark)))
    return folder


def test_a_model_with_code_of_its_own_runs_it_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    mark = tmp_path / "mark"
    folder = save_custom(tmp_path / "custom", mark)
    with pytest.raises(ModelLoadError, match=r"modeling_custom\.CustomForCausalLM.*--trust-remote-code"):
        load_model(str(folder))
    assert not mark.exists()
    chat = load_model(str(folder), trust_remote_code=True)
    assert mark.read_text() == "code of the model has run"
    assert type(chat.model).__name__ == "CustomForCausalLM"
    assert len(chat.sites) == 2


def test_leftover_code_of_an_architecture_that_transformers_knows_is_not_needed(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    content["auto_map"] = {"AutoModelForCausalLM": "modeling_old.OldForCausalLM"}
    (folder / "config.json").write_text(json.dumps(content))
    assert type(load_model(str(folder)).model).__name__ == "LlamaForCausalLM"
    assert make_tokenizer().chat_template
