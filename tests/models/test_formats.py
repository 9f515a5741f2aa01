"""Which dtype suits which device, with its reason, and what `from_pretrained` is told."""

import importlib.util
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pkedit.errors import ModelLoadError
from pkedit.models import load_model
from pkedit.models.formats import best_dtype, loading_options
from pkedit.models.loading import placement
from tiny import save_chat


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that there are GPUs; each is given by whether it multiplies in bfloat16 itself."""

    def pretend(*native: bool) -> None:
        chosen = [0]

        def switched(number: int) -> Any:
            chosen[0] = number
            return nullcontext()

        def supported(including_emulation: bool = True) -> bool:
            return including_emulation or native[chosen[0]]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(native))
        monkeypatch.setattr(torch.cuda, "device", switched)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    return pretend


@pytest.mark.parametrize(
    ("native", "device", "dtype", "reason"),
    [
        ([True], None, torch.bfloat16, "cuda (the best device found), bfloat16 (the format"),
        ([False], None, torch.float16, "cuda (the best device found), float16 (not every GPU"),
        ([False, True], "cuda:1", torch.bfloat16, "cuda:1 (asked for), bfloat16"),
        ([True, False], "auto", torch.float16, "auto (asked for), float16"),
        ([True], "cpu", torch.float32, "cpu (asked for), float32 (batches then answer as single prompts do)"),
    ],
)
def test_the_dtype_is_what_the_device_multiplies_in(
    gpus: Any, native: list[bool], device: str | None, dtype: torch.dtype, reason: str
) -> None:
    gpus(*native)
    _, chosen, why = placement(device, None)
    assert chosen == dtype
    assert why.startswith(reason)


def test_without_a_gpu_everything_is_float32() -> None:
    assert best_dtype("cpu")[0] == torch.float32
    if not torch.cuda.is_available():
        assert best_dtype("auto")[0] == torch.float32


def test_plain_weights_are_loaded_as_before() -> None:
    expected = {"dtype": torch.float32, "device_map": None}
    assert loading_options("cpu", torch.float32, None, {"model_type": "llama"}) == expected
    assert loading_options("auto", torch.float32, None, {})["device_map"] == "auto"


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_formats_that_transformers_can_undo_are_undone(method: str) -> None:
    options = loading_options("cpu", torch.bfloat16, None, {"quantization_config": {"quant_method": method}})
    assert options["quantization_config"].dequantize


def test_what_is_wrong_with_a_quantisation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match="--load-in 3bit: choose one of 4bit, 8bit"):
        loading_options("cpu", torch.float32, "3bit", {"model_type": "llama"})
    with pytest.raises(ModelLoadError, match="GGUF"):
        loading_options("cpu", torch.float32, "4bit", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packed = {"quantization_config": {"load_in_4bit": 1}}
    for quantisation, config in (("4bit", {"model_type": "llama"}), (None, packed)):
        with pytest.raises(ModelLoadError, match=r"pip install 'pkedit\[bitsandbytes\]'"):
            loading_options("cpu", torch.float32, quantisation, config)


def test_a_checkpoint_in_fp8_is_plain_weights_once_loaded(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model", hidden=32, neurons=64)
    plain = load_model(str(folder))
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.full([-(-size // 128) for size in weight.shape], float(scale))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(content))
    chat = load_model(str(folder))
    for site, exact in zip(chat.sites, plain.sites, strict=True):
        assert site.write_vectors().dtype == torch.float32
        assert not site.quantised
        assert 0 < (site.write_vectors() - exact.write_vectors()).norm() < 0.05 * exact.write_vectors().norm()
    chat.model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
