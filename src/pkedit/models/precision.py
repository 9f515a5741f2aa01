"""Mixed precision for passes that tolerate it."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from pkedit.models.chat import ChatModel
from pkedit.models.experts import READ, WRITE, calls_views
from pkedit.models.quantised import bits_of


@contextmanager
def arithmetic(chat: ChatModel, precision: str, *, cast_once: bool = False) -> Generator[None]:
    """`auto` multiplies in bfloat16 where the device does that natively and the weights are float32.

    On a processor with AVX512-BF16 an edit step then takes about 0.7 of the time.

    Args:
        chat: the model.
        precision: `auto`, `full` or `bfloat16`.
        cast_once: the linear layers and the experts hold their weights in bfloat16 meanwhile. Where weights take no
            gradient they are otherwise cast in every pass, a tenth of a second for 0.1 billion of them. What is read
            from the weights inside is rounded; nothing may be written to them.
    """
    if arithmetic_dtype(chat.device.type, chat.dtype, precision) == chat.dtype:
        yield
        return
    cast = _multiplied(chat.model) if cast_once else []
    exact = [getattr(module, name) for module, name in cast]
    try:
        for (module, name), weight in zip(cast, exact, strict=True):
            # A parameter of its own: the head may share its weight with the embedding, which is not multiplied.
            setattr(module, name, nn.Parameter(weight.to(torch.bfloat16), requires_grad=False))
        with torch.autocast(chat.device.type, dtype=torch.bfloat16):
            yield
    finally:
        for (module, name), weight in zip(cast, exact, strict=True):
            setattr(module, name, weight)


def gradient_scale(chat: ChatModel) -> float:
    """What a loss is multiplied by before its gradient is taken, and the gradient divided by afterwards.

    float16 has no numbers below 6e-8, where many gradients of states lie (Micikevicius et al. 2018, section 3.2). Nor
    has it any above 65,504, so the factor is a moderate one.
    """
    return 256.0 if chat.dtype == torch.float16 else 1.0


def _multiplied(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the weights are that autocast would cast: a module, and what it calls them."""
    # Quantised ones bring a format of their own to multiply in.
    linear = [
        (module, "weight") for module in model.modules() if isinstance(module, nn.Linear) and bits_of(module) is None
    ]
    fused = [(module, name) for module in model.modules() if calls_views(module) for name in (READ, WRITE)]
    return linear + fused


def arithmetic_dtype(device: str, weights: torch.dtype, precision: str) -> torch.dtype:
    """What weights of this dtype are multiplied in on a kind of device (`cpu`, `cuda`), as `arithmetic` does it."""
    native = device != "cpu" or _cpu_has_bfloat16()
    wanted = precision == "bfloat16" or (precision == "auto" and native)
    return torch.bfloat16 if wanted and weights == torch.float32 else weights


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
