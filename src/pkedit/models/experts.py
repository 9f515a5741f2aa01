"""Routed experts as modules: views into the fused parameters, called one expert at a time.

Transformers stores all experts of a layer in one parameter per projection, so there is nothing that a hook could be
put on. Here every expert gets a read and a write module that look into these parameters when they are called, and
the layer's experts module a forward pass that calls them, for the experts that a token was sent to and with these
tokens only. The views belong to no module: the model's parameters, its state dict and what is saved are the same.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pkedit.errors import ModelLoadError
from pkedit.models.families import Experts

READ, WRITE = "gate_up_proj", "down_proj"
# Where accelerate has put a forward of its own on the module, it calls the one that it keeps under this name.
ACCELERATE = "_old_forward"
# Which of its ways to compute experts transformers takes.
IMPLEMENTATION = "_experts_implementation"
_VIEWS = "_pkedit_views"


class ExpertMatrix(nn.Module):
    """One expert's part of a fused parameter.

    `routed_tokens` says during a forward pass which token each row of the input is, counted through the batch.
    """

    routed_tokens: Tensor | None

    def __init__(self, experts: nn.Module, name: str, expert: int, *, transposed: bool) -> None:
        super().__init__()
        # In a tuple, or the experts would count as a part of this view.
        self._source = (experts,)
        self._name = name
        self._expert = expert
        self.transposed = transposed
        self.routed_tokens = None

    @property
    def parameter(self) -> nn.Parameter:
        """The fused parameter of all experts."""
        parameter: nn.Parameter = getattr(self._source[0], self._name)
        return parameter

    @property
    def weight(self) -> Tensor:
        """A view of this expert's weights, as they are stored."""
        return self.parameter[self._expert]

    @property
    def bias(self) -> Tensor | None:
        """A view of this expert's bias, where there is one."""
        biases: Tensor | None = getattr(self._source[0], f"{self._name}_bias", None)
        return None if biases is None else biases[self._expert]

    def forward(self, states: Tensor) -> Tensor:
        """[routed tokens, out] from [routed tokens, in]."""
        return linear(states, self.weight.T if self.transposed else self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class ExpertViews:
    """The read and the write module of one expert."""

    read: ExpertMatrix
    write: ExpertMatrix


def expert_views(experts: nn.Module, layout: Experts) -> tuple[ExpertViews, ...]:
    """The modules of every expert; from now on the experts module calls them. Once more gives the same ones.

    Raises:
        ModelLoadError: the parameters are not plain three-dimensional weights.
    """
    known: tuple[Experts, tuple[ExpertViews, ...]] | None = vars(experts).get(_VIEWS)
    if known is not None and known[0] == layout:
        return known[1]
    _remove(experts)
    for name in (READ, WRITE):
        weight = getattr(experts, name, None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 3:
            raise ModelLoadError(
                f"{layout.path}: {type(experts).__name__} keeps no plain weights [experts, rows, columns] as {name}; "
                "is the model quantised?"
            )
    if getattr(experts, "has_post_expert_norm", False):
        raise ModelLoadError(
            f"{layout.path}: experts whose outputs are normed one by one are not supported; choose another model"
        )
    views = tuple(
        ExpertViews(
            ExpertMatrix(experts, READ, expert, transposed=layout.transposed),
            ExpertMatrix(experts, WRITE, expert, transposed=layout.transposed),
        )
        for expert in range(len(getattr(experts, WRITE)))
    )
    setattr(experts, _VIEWS, (layout, views))
    # Bound, so that a deep copy of the model calls the copy's weights.
    _replace(experts, MethodType(_scaled_forward if layout.scaled_inputs else _routed_forward, experts))
    return views


def release_experts(model: nn.Module) -> None:
    """Gives every experts module of the model its own forward pass back."""
    for module in model.modules():
        _remove(module)


@contextmanager
def own_experts(model: nn.Module) -> Generator[bool]:
    """The model computes its experts itself inside, by its plainest code; yields whether there are any."""
    taken = [(module, vars(module)[_VIEWS]) for module in model.modules() if _VIEWS in vars(module)]
    configs = {id(module.config): module.config for module, _ in taken if hasattr(module, "config")}
    usual = [getattr(config, IMPLEMENTATION, None) for config in configs.values()]
    release_experts(model)
    try:
        for config in configs.values():
            # Faster ones want sizes that are multiples of some number.
            setattr(config, IMPLEMENTATION, "eager")
        yield bool(taken)
    finally:
        for config, name in zip(configs.values(), usual, strict=True):
            setattr(config, IMPLEMENTATION, name)
        for module, known in taken:
            setattr(module, _VIEWS, known)
            _replace(module, MethodType(_scaled_forward if known[0].scaled_inputs else _routed_forward, module))


def calls_views(module: nn.Module) -> bool:
    """Whether the module's forward pass is ours."""
    return _VIEWS in vars(module)


def _replace(experts: nn.Module, forward: MethodType) -> None:
    place = ACCELERATE if ACCELERATE in vars(experts) else "forward"
    setattr(experts, place, forward)


def _remove(experts: nn.Module) -> None:
    if _VIEWS not in vars(experts):
        return
    delattr(experts, _VIEWS)
    if ACCELERATE in vars(experts):
        setattr(experts, ACCELERATE, MethodType(type(experts).forward, experts))
    else:
        delattr(experts, "forward")


def _routed_forward(experts: nn.Module, states: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    """[tokens, hidden] from tokens, the experts chosen for each [tokens, k] and their scores [tokens, k]."""
    layout, views = getattr(experts, _VIEWS)
    per_token = chosen.shape[-1]
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    # Numbers beyond the last expert stand for "none".
    counts = flat.bincount(minlength=len(views)).tolist()
    total = torch.zeros_like(states)
    for view, places in zip(views, torch.split(order, counts)[: len(views)], strict=True):
        tokens = places // per_token
        output = _call(experts, layout, view, tokens, states)
        if output is not None:
            weighted = output * scores.flatten()[places].unsqueeze(-1)
            total.index_add_(0, tokens, weighted.to(total.dtype))
    return total


def _scaled_forward(experts: nn.Module, scaled: Tensor) -> Tensor:
    """[experts · tokens, hidden] from the tokens scaled for each expert in turn, [experts · tokens, hidden]."""
    layout, views = getattr(experts, _VIEWS)
    states = scaled.view(len(views), -1, scaled.shape[-1])
    # Of a row of zeros these experts, which have no biases, make zeros.
    routed = (states != 0).any(-1)
    outputs: list[Tensor] = []
    places: list[Tensor] = []
    sent = torch.split(routed.nonzero()[:, 1], routed.sum(1).tolist())
    for expert, (view, tokens) in enumerate(zip(views, sent, strict=True)):
        output = _call(experts, layout, view, tokens, states[expert])
        if output is not None:
            outputs.append(output.to(scaled.dtype))
            places.append(tokens + expert * states.shape[1])
    total = torch.zeros_like(scaled)
    return total.index_add(0, torch.cat(places), torch.cat(outputs)) if outputs else total


def _call(experts: nn.Module, layout: Experts, view: ExpertViews, tokens: Tensor, states: Tensor) -> Tensor | None:
    """The expert's output for some tokens; none where there are none."""
    view.read.routed_tokens = view.write.routed_tokens = tokens
    if not len(tokens):
        return None
    output: Tensor = view.write(_activation(experts, layout, view.read(states[tokens])))
    return output


def _activation(experts: Any, layout: Experts, pre_activations: Tensor) -> Tensor:
    """What the read module's outputs [tokens, 2 · neurons] become, [tokens, neurons]."""
    if hasattr(experts, "_apply_gate"):
        gated: Tensor = experts._apply_gate(pre_activations)
        return gated
    gate, other = (
        (pre_activations[..., ::2], pre_activations[..., 1::2]) if layout.interleaved else pre_activations.chunk(2, -1)
    )
    activation: Tensor = experts.act_fn(gate) * other
    return activation


def tokens_of(module: nn.Module) -> Tensor | None:
    """`routed_tokens` of a view, none for any other module."""
    return module.routed_tokens if isinstance(module, ExpertMatrix) else None


def stored_in(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters that hold the weights of these modules, each once."""
    parameters: dict[int, nn.Parameter] = {}
    for module in modules:
        parameter = module.parameter if isinstance(module, ExpertMatrix) else module.weight
        if isinstance(parameter, nn.Parameter):
            parameters.setdefault(id(parameter), parameter)
    return list(parameters.values())
