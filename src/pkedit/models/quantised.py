"""Matrices as numbers, also where bitsandbytes stores them in 4 or 8 bits: then as de-quantised copies.

A copy says what a weight is, but writing to it changes nothing. An edit of such a weight acts through hooks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pkedit.errors import ModelLoadError

# By name, so that bitsandbytes is not imported for models that do not use it.
BITS = {"Params4bit": 4, "Int8Params": 8}
# Formats in which a stored number is the weight itself. Narrower ones need a scale that lies elsewhere.
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# What bitsandbytes calls a processor that it repacks 4-bit weights for.
REPACKED = "support_avx512bf16_for_cpu"
OTHERWISE = "Load the full-precision model, that with --load-in 4bit, or a .gguf file of it."


def bits_of(module: nn.Module) -> int | None:
    """How many bits bitsandbytes keeps of each weight of this module; None where the weights are plain numbers."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype in PLAIN:
        return None
    return BITS.get(type(weight).__name__)


def matrix_of(module: nn.Module, *, transposed: bool = False) -> Tensor:
    """The weight matrix [out, in], or [in, out] where `transposed`: as it is stored, or a de-quantised copy in float32.

    Args:
        module: a projection.
        transposed: whether this kind of model stores [in, out] (Conv1D), which bitsandbytes turns round.

    Raises:
        ModelLoadError: the module has no weights that can be read as numbers.
    """
    if bits_of(module) is None:
        return _stored(module)
    copy = _dequantised(module)
    return copy.T if transposed else copy


def shape_of_matrix(module: nn.Module, *, transposed: bool = False) -> tuple[int, int]:
    """The shape of `matrix_of`, without de-quantising anything.

    Raises:
        ModelLoadError: as there.
    """
    if bits_of(module) is None:
        rows, columns = _stored(module).shape
        return rows, columns
    sizes: Any = module
    return (sizes.in_features, sizes.out_features) if transposed else (sizes.out_features, sizes.in_features)


def keep_differentiable(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for a processor's inference instructions at the first pass.

    Weights in that layout give no gradients, not even of states, and their scales are rounded.
    """
    for module in model.modules():
        if bits_of(module) == 4 and hasattr(module, REPACKED):
            setattr(module, REPACKED, False)


def _stored(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype not in PLAIN or weight.dim() != 2:
        what = "no weight tensor" if not isinstance(weight, Tensor) else f"weights in {weight.dtype}"
        raise ModelLoadError(
            f"{type(module).__name__} has {what}: it is quantised in a way for which there is no de-quantiser here. "
            f"{OTHERWISE}"
        )
    return weight


@torch.no_grad()
def _dequantised(module: Any) -> Tensor:
    """[out, in] in float32."""
    if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
        raise ModelLoadError(
            "the model's 4-bit weights were repacked for inference on this processor when it was first called, and "
            "give no gradients now; load it by pkedit"
        )
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    # The scales of 8 bits move from the weight to this state in the first pass.
    copy: Tensor = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
    return copy.detach().float()
