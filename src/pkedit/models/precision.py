"""Mixed precision for passes that tolerate it."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pkedit.models.chat import ChatModel


@contextmanager
def arithmetic(chat: ChatModel, precision: str, *, cast_once: bool = False) -> Generator[None]:
    """`auto` multiplies in bfloat16 where the device does that natively and the weights are float32.

    On a processor with AVX512-BF16 an edit step then takes about 0.7 of the time.

    Args:
        chat: the model.
        precision: `auto`, `full` or `bfloat16`.
        cast_once: the linear layers hold their weights in bfloat16 meanwhile. Where weights take no gradient they
            are otherwise cast in every pass, a tenth of a second for 0.1 billion of them. What is read from the
            weights inside is rounded; nothing may be written to them.
    """
    native = chat.device.type != "cpu" or _cpu_has_bfloat16()
    wanted = precision == "bfloat16" or (precision == "auto" and native)
    if not wanted or chat.dtype != torch.float32:
        yield
        return
    exact = _linear_weights(chat.model) if cast_once else []
    stored = [weight.data for weight in exact]
    try:
        for weight in exact:
            weight.data = weight.data.to(torch.bfloat16)
        with torch.autocast(chat.device.type, dtype=torch.bfloat16):
            yield
    finally:
        for weight, data in zip(exact, stored, strict=True):
            weight.data = data


def _linear_weights(model: nn.Module) -> list[Tensor]:
    """The matrices of the linear layers, without those that are embeddings too: what these give is not multiplied."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in linear if id(weight) not in embeddings]


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
