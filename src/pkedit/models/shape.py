"""The sizes of a model that decide what it costs, counted on its modules; they may be on the meta device."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

# Weights of experts; those of experts that every token uses (`shared_expert`) are not among them.
EXPERT = re.compile(r"(?:^|\.)experts\.(?:(?P<number>\d+)\.)?")
# How configurations call the number of experts that one token uses.
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder. Weights are numbers, not bytes; those of the layers are their matrices' alone.

    `dense_weights`: of the layers, used by every token. `expert_weights`: of the experts in all layers, of whose
    `experts` in a layer each token uses `active_experts` (both 0 where there are none). `head_weights`: of the output
    matrix, tied to the embedding or not. `attention_width`: heads times the width of one; `key_width` the same of the
    heads of keys, which several may share.
    """

    layers: int
    hidden: int
    vocabulary: int
    parameters: int
    dense_weights: int
    expert_weights: int
    experts: int
    active_experts: int
    head_weights: int
    tied: bool
    attention_width: int
    key_width: int

    @property
    def active_weights(self) -> float:
        """Weights of all layers that one token is multiplied with."""
        return self.dense_weights + self.expert_weights * self.active_experts / max(self.experts, 1)

    @property
    def layer_weights(self) -> int:
        """Weights of all layers, those of all experts included."""
        return self.dense_weights + self.expert_weights

    @property
    def widths(self) -> float:
        """Numbers that the matrices of one layer give and take for one token, beside its state.

        Nearly every matrix has the hidden width on one side: what is on the other side adds up to this.
        """
        return self.active_weights / (self.layers * self.hidden)


def shape_of(model: Any) -> ModelShape:
    """Counts the sizes of a causal language model.

    Where the configuration does not say how many experts a token uses, all count as used.
    """
    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    outside = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    outside.add(id(head.weight))
    dense = expert = experts = 0
    for name, parameter in _matrices(model):
        if id(parameter) in outside:
            continue
        found = EXPERT.search(name)
        if found is None:
            dense += parameter.numel()
            continue
        expert += parameter.numel()
        # Experts are modules with numbers, or slices of one tensor.
        experts = max(experts, parameter.shape[0] if found["number"] is None else int(found["number"]) + 1)
    # Models without attention have no heads.
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    used = next((getattr(config, name) for name in EXPERTS_PER_TOKEN if getattr(config, name, None)), experts)
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=head.weight.shape[0],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_weights=dense,
        expert_weights=expert,
        experts=experts,
        active_experts=min(used, experts),
        head_weights=math.prod(head.weight.shape),
        tied=head.weight is embedding.weight,
        attention_width=heads * width,
        key_width=(getattr(config, "num_key_value_heads", None) or heads) * width,
    )


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that states are multiplied with: no norms, and no biases, of which experts have a row each."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.endswith("bias"):
            yield name, parameter
