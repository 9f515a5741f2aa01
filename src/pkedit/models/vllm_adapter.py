"""A LoRA adapter in the form that vLLM takes: one rank for all matrices, one scale, and a rank that it has kernels for.

vLLM (0.10 to 0.11, `vllm/lora/peft_helper.py` and `vllm/config/lora.py`) reads `r` and `lora_alpha` and leaves
`rank_pattern` and `alpha_pattern` aside. Rows and columns of zeros change no product, so that the smaller ranks are
filled up with them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pkedit.errors import ModelLoadError, first_line

# Of `max_lora_rank`, those that every version since 0.10 takes.
RANKS = (8, 16, 32, 64, 128, 256, 512)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"
OTHERWISE = "save the edited model (pkedit export --as full) and name that folder"


def vllm_adapter(source: str | Path, folder: Path) -> int:
    """Writes the adapter to `folder` as vLLM takes it.

    Args:
        source: a folder that PEFT wrote.
        folder: where to, existing and empty.

    Returns:
        What `max_lora_rank` has to be.

    Raises:
        ModelLoadError: `source` is no LoRA adapter, or one that vLLM cannot apply.
    """
    source = Path(source).expanduser()
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(source / WEIGHTS)
    except FileNotFoundError:
        raise ModelLoadError(
            f"{source} holds no PEFT adapter ({CONFIG} and {WEIGHTS}); pkedit export --as adapter writes one"
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelLoadError(f"{source}: the adapter is damaged ({first_line(error)})") from None
    _check(source, config)
    modules = sorted(name.removesuffix(A) for name in weights if name.endswith(A))
    if {*(module + A for module in modules), *(module + B for module in modules)} != weights.keys():
        raise ModelLoadError(f"{source}: the adapter holds more than pairs of LoRA matrices, which vLLM refuses")
    rank = max((len(weights[module + A]) for module in modules), default=0)
    allowed = next((one for one in RANKS if one >= rank), None)
    if allowed is None or not rank:
        raise ModelLoadError(f"{source}: the adapter has rank {rank}, and vLLM takes at most {RANKS[-1]}; {OTHERWISE}")
    padded = {}
    for module in modules:
        a, b = weights[module + A], weights[module + B] * _scale(config, module)
        padded[module + A] = _filled(a, rank, dim=0)
        padded[module + B] = _filled(b, rank, dim=1)
    save_file(padded, folder / WEIGHTS, {"format": "pt"})
    uniform = {**config, "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    (folder / CONFIG).write_text(json.dumps(uniform, indent=1), encoding="utf-8")
    return allowed


def _check(source: Path, config: Mapping[str, Any]) -> None:
    """That it is a plain LoRA on modules."""
    if config.get("peft_type") != "LORA":
        raise ModelLoadError(f"{source}: vLLM takes LoRA adapters, and this is one of {config.get('peft_type')}")
    if config.get("target_parameters"):
        raise ModelLoadError(f"{source}: the adapter changes packed experts, which vLLM reads otherwise; {OTHERWISE}")
    for name in ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias"):
        if config.get(name):
            raise ModelLoadError(f"{source}: vLLM cannot apply an adapter with {name}; {OTHERWISE}")


def _scale(config: Mapping[str, Any], module: str) -> float:
    """What PEFT multiplies B A of this module by."""
    rank, alpha = (
        _of_module(config, "rank_pattern", "r", module),
        _of_module(config, "alpha_pattern", "lora_alpha", module),
    )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _of_module(config: Mapping[str, Any], pattern: str, usual: str, module: str) -> float:
    patterns: dict[str, float] = config.get(pattern) or {}
    return float(patterns.get(get_pattern_key(list(patterns), module), config[usual]))


def _filled(matrix: Tensor, rank: int, *, dim: int) -> Tensor:
    missing = list(matrix.shape)
    missing[dim] = rank - matrix.shape[dim]
    return torch.cat([matrix, matrix.new_zeros(missing)], dim=dim).contiguous()
