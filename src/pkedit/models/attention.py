"""Which attention runs, where the model's usual one is slow."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

GROUPED = "pkedit_grouped"
# A processor's fused kernel gains from here on, and plain products would hold scores for all these places.
LONG = 512


@contextmanager
def few_queries(model: Any) -> Generator[None]:
    """Attention for passes of a few tokens over long caches, with gradient; the model's own again afterwards.

    On a processor the fused kernel's backward pass takes twice as long there as plain matrix products; on a GPU it
    copies shared keys for every head that reads them, and holds the copies until the backward pass.
    """
    usual = model.config._attn_implementation
    if usual == "eager":
        yield
        return
    config = model.config.get_text_config()
    shares_keys = getattr(config, "num_key_value_heads", config.num_attention_heads) < config.num_attention_heads
    if shares_keys:
        _register()
    model.set_attn_implementation(GROUPED if shares_keys else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@contextmanager
def short_reading(model: Any, places: int) -> Generator[None]:
    """Attention for many short sequences, of so many places, that are only read.

    On two cores 920 prompts of some fifty tokens took 0.86 of the time that they take with the fused kernel.
    """
    if places > LONG or model.get_input_embeddings().weight.device.type != "cpu":
        yield
        return
    with few_queries(model):
        yield


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in which the heads that share keys are queries side by side: no copy of the keys for each of them.

    Source: Ainslie et al. 2023, arXiv 2305.13245 (grouped-query attention). No dropout: it is for frozen models.

    Args:
        module: unused; transformers passes it.
        query: [rows, heads, tokens, width].
        key: [rows, shared heads, places, width].
        value: as `key`.
        attention_mask: what is added to the scores, [rows, 1, tokens, places], or None.
        scaling: of the scores.

    Returns:
        The output, [rows, tokens, heads, width], and the weights, [rows, heads, tokens, places].
    """
    rows, heads, tokens, width = query.shape
    shared, places = key.shape[1:3]
    scores = query.reshape(rows, shared, -1, width) @ key.transpose(2, 3) * scaling
    scores = scores.view(rows, heads, tokens, places)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    output = weights.view(rows, shared, -1, places) @ value
    return output.view(rows, heads, tokens, -1).transpose(1, 2).contiguous(), weights


def _register() -> None:
    """Makes transformers know it by its name; once more does no harm."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, eager_mask)
