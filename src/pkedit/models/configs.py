"""What a model is, from its configuration and its small files alone: no weight is read."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from transformers import AutoConfig, PretrainedConfig

from pkedit.errors import ModelLoadError, first_line
from pkedit.models.checkpoint import DAMAGED, check_counts
from pkedit.models.loading import config_source
from pkedit.models.refused import check_own_code
from pkedit.models.source import source_file

# GGUF writes the names of its metadata in plain bytes before the tensors; vocabularies take a few megabytes of them.
GGUF_HEADER_BYTES = 32 << 20
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What these methods store a weight in, where the configuration does not say.
METHOD_BITS = {"fp8": 8, "fbgemm_fp8": 8, "finegrained_fp8": 8, "mxfp4": 4, "bitnet": 2}


def read_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model from the Hub, a folder, a `.gguf` file's header, or of `smollm2`.

    Raises:
        ModelLoadError: not found, not readable, or of a kind that transformers does not know.
    """
    source, extra = config_source(name)
    try:
        if "gguf_file" not in extra:
            content = PretrainedConfig.get_config_dict(source)[0]
            check_own_code(name, content, trust_remote_code=trust_remote_code)
            # Some configurations write a list as long as they say they have layers.
            check_counts(name, content, None)
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **extra)
    except DAMAGED as error:
        raise ModelLoadError(
            f"cannot read the configuration of {name!r}: {first_line(error)} "
            "(give a Hub id, a model folder, a .gguf file, or 'smollm2')"
        ) from error


def has_chat_template(name: str) -> bool | None:
    """Whether the tokenizer comes with a chat template, from its small files; None where they do not tell."""
    source, extra = config_source(name)
    if "gguf_file" in extra:
        with (Path(source) / extra["gguf_file"]).open("rb") as file:
            return b"tokenizer.chat_template" in file.read(GGUF_HEADER_BYTES)
    found = {file: source_file(source, file) for file in ("chat_template.jinja", "chat_template.json")}
    if any(found.values()):
        return True
    config = source_file(source, "tokenizer_config.json")
    if config is None:
        return None
    return bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def quantisation_of(name: str, config: Any) -> tuple[str | None, float | None]:
    """How the checkpoint's weights are quantised, in words, and the bits of one once it is loaded.

    Nothing is quantised where the first is None; where the second is, weights have the dtype they are loaded in.
    """
    if name == "smollm2" or Path(name).suffix == ".gguf":
        return "GGUF, plain weights once loaded", None
    entry = getattr(config, "quantization_config", None)
    if entry is None:
        return None, None
    entry = entry if isinstance(entry, dict) else entry.to_dict()
    method = str(entry.get("quant_method", "unknown method"))
    bits = entry.get("bits") or METHOD_BITS.get(method)
    for number in (4, 8):
        if entry.get(f"load_in_{number}bit") or entry.get(f"_load_in_{number}bit"):
            bits = number
    return (method if bits is None else f"{method}, {bits} bits"), bits


def download_folder(name: str) -> Path | None:
    """Where the weights would be downloaded to; None where they are on this machine."""
    if name == "smollm2" or Path(name).expanduser().exists():
        return None
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in WEIGHT_FILES):
        return None
    return Path(constants.HF_HUB_CACHE)
