"""The format that weights are loaded in: a dtype that suits the device, with the reason, or fewer bits where asked."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils.quantization_config import BitsAndBytesConfig, FineGrainedFP8Config, Mxfp4Config

from pkedit.errors import ModelLoadError

QUANTISATIONS = ("4bit", "8bit")
# Checkpoints in these formats become plain weights when asked to.
DEQUANTISED = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}


def best_dtype(device: str) -> tuple[torch.dtype, str]:
    """The dtype for a device that exists, and why: `bfloat16` and `float16` need half the memory of `float32`.

    Args:
        device: as torch names it, or `auto` for all there are.
    """
    if device == "cpu" or not torch.cuda.is_available():
        return torch.float32, "float32 (batches then answer as single prompts do)"
    chosen = range(torch.cuda.device_count()) if device == "auto" else [torch.device(device).index or 0]
    if all(_multiplies_bfloat16(number) for number in chosen):
        return torch.bfloat16, "bfloat16 (the format the weights were trained in)"
    return torch.float16, "float16 (not every GPU in use multiplies in bfloat16 itself)"


def loading_options(place: str, dtype: torch.dtype, quantisation: str | None, config: Mapping[str, Any]) -> Any:
    """What `from_pretrained` is to be told about format and place.

    Args:
        place: `auto`, or a device.
        dtype: of the weights, or of what is not quantised.
        quantisation: `4bit` or `8bit` where plain weights are to be quantised at load.
        config: the content of `config.json`; empty for GGUF.

    Raises:
        ModelLoadError: an unknown quantisation, one of GGUF, or bitsandbytes is missing.
    """
    if quantisation is not None and quantisation not in QUANTISATIONS:
        raise ModelLoadError(f"--load-in {quantisation}: choose one of {', '.join(QUANTISATIONS)}")
    if quantisation is not None and not config:
        raise ModelLoadError("a GGUF file is de-quantised when it is loaded; leave --load-in out")
    entry = config.get("quantization_config") or {}
    method = entry.get("quant_method", "bitsandbytes" if entry else None)
    if (quantisation is not None or method == "bitsandbytes") and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelLoadError("weights in 4 or 8 bits need bitsandbytes; run: pip install 'pkedit[bitsandbytes]'")
    options: dict[str, Any] = {"dtype": dtype, "device_map": "auto" if place == "auto" else None}
    if method in DEQUANTISED:
        options["quantization_config"] = DEQUANTISED[method](dequantize=True)
    if quantisation is not None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=quantisation == "4bit",
            load_in_8bit=quantisation == "8bit",
            # Of the published formats the one for weights that are normally distributed (Dettmers et al. 2023).
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    if quantisation is not None or method == "bitsandbytes":
        # Quantised weights are made where they are to lie; they cannot be moved afterwards.
        options["device_map"] = "auto" if place == "auto" else {"": place}
    return options


def _multiplies_bfloat16(number: int) -> bool:
    """Whether a GPU does so itself: older ones only imitate it, and are then slower than in float32."""
    with torch.cuda.device(number):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
