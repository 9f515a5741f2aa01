"""From final hidden states to logits, as the model's own forward pass does it."""

from typing import Any

import torch
from torch import Tensor


def logits_from(model: Any, states: Tensor) -> Tensor:
    """Logits [..., vocabulary] in float32 from final states [..., hidden], behind the last norm.

    Some families scale or bound their logits. The probe compares what comes out with the model's own logits, so a
    family that does something else to them is noticed.
    """
    logits: Tensor = model.get_output_embeddings()(states).float()
    # In a model that also sees, this is the part that reads.
    config = model.config.get_text_config()
    # Granite divides its logits, Cohere multiplies them, Gemma 2 bounds them.
    logits = logits / getattr(config, "logits_scaling", 1.0)
    if getattr(model, "logit_scale", None) is not None:
        logits = logits * model.logit_scale
    bound = getattr(config, "final_logit_softcapping", None)
    if bound is not None:
        logits = torch.tanh(logits / bound) * bound
    return logits
