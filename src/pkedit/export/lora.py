"""An edit as LoRA factors: for each matrix that it changes, A and B whose product is the change, without rank to spare.

On a write matrix A selects the neurons (one-hot rows) and B holds their changes. On a read matrix A holds the changes
and B (one-hot columns) puts them where the outputs of these neurons are. LoRA: Hu et al. 2021, arXiv 2106.09685.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pkedit.edit.delta import Delta, LayerDelta, read_of
from pkedit.models.chat import ChatModel
from pkedit.models.experts import stored_in
from pkedit.models.family import MlpSite
from pkedit.models.quantised import bits_of, shape_of_matrix


@dataclass(frozen=True, eq=False)
class Factors:
    """`b @ a` is the change of a matrix [out, in]: `a` [rank, in] and `b` [out, rank], both float32."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """Vectors changed."""
        return len(self.a)


@dataclass(frozen=True, eq=False)
class LoraTargets:
    """Factors by the name of what they change: a module, or a parameter.

    `experts` says how many matrices such a parameter holds where it is that of routed experts.
    """

    modules: dict[str, Factors]
    parameters: dict[str, Factors]
    experts: dict[str, int]

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of every target; of experts, that of each one."""
        of_parameters = {name: one.rank // self.experts.get(name, 1) for name, one in self.parameters.items()}
        return {name: one.rank for name, one in self.modules.items()} | of_parameters


def lora_targets(delta: Delta, chat: ChatModel) -> LoraTargets:
    """The edit in factors, under the names that its targets have in `chat.model`.

    Args:
        delta: made for the weights of `chat`.
        chat: the base; only its shapes and names are read.
    """
    module_names = {id(module): name for name, module in chat.model.named_modules()}
    parameter_names = {id(parameter): name for name, parameter in chat.model.named_parameters()}
    of_modules: dict[str, list[Factors]] = {}
    of_experts: dict[str, dict[int, list[Factors]]] = {}
    stored: dict[str, nn.Parameter] = {}
    for layer in delta.layers:
        site = chat.places[layer.site]
        if not len(layer.neurons):
            continue
        for part in layer.change:
            which = read_of(part)
            module = site.write if which is None else site.reads[which].module
            factors = part_factors(site, layer, part)
            if site.expert is None:
                of_modules.setdefault(module_names[id(module)], []).append(factors)
            else:
                (parameter,) = stored_in([module])
                name = parameter_names[id(parameter)]
                stored[name] = parameter
                if _read_by_peft_as_transposed(chat.model, name) != site.transposed:
                    factors = Factors(factors.b.T, factors.a.T)
                of_experts.setdefault(name, {}).setdefault(site.expert, []).append(factors)
    modules = {name: _joined(own) for name, own in of_modules.items()}
    dense: dict[str, Factors] = {}
    if any(site.expert is not None for site in chat.sites):
        # In such a model PEFT takes modules named as experts' matrices once were for them, whichever they are.
        plain = [name for name in modules if bits_of(chat.model.get_submodule(name)) is None]
        dense = {f"{name}.weight": modules.pop(name) for name in plain}
    return LoraTargets(
        modules,
        dense | {name: _packed(len(stored[name]), own) for name, own in of_experts.items()},
        {name: len(parameter) for name, parameter in stored.items()},
    )


def part_factors(site: MlpSite, layer: LayerDelta, part: str) -> Factors:
    """The factors of one changed matrix of an MLP."""
    which = read_of(part)
    module = site.write if which is None else site.reads[which].module
    rows, columns = shape_of_matrix(module, transposed=site.transposed)
    inputs, outputs = (rows, columns) if site.transposed else (columns, rows)
    change = weight_change(layer, part)
    if which is None:
        return Factors(one_hot(layer.neurons, inputs).float(), change.T)
    return Factors(change, one_hot(site.read_outputs(which, layer.neurons), outputs).T.float())


def weight_change(layer: LayerDelta, part: str) -> Tensor:
    """What the edit adds to the weights as they are stored, [k, hidden] in float32.

    Weights in 16 bits cannot hold every sum, so that an applied edit differs from δ by their rounding. What was
    measured is the rounded sum; its difference from the original is told here.
    """
    original, change = layer.original[part], layer.change[part]
    if original.dtype == torch.float32:
        return change.float()
    return (original.float() + change).to(original.dtype).float() - original.float()


def _joined(factors: Sequence[Factors]) -> Factors:
    """The sum of several changes of one matrix."""
    return Factors(torch.cat([one.a for one in factors]), torch.cat([one.b for one in factors], dim=1))


def _read_by_peft_as_transposed(model: Any, parameter: str) -> bool:
    """Whether PEFT takes the experts' matrices for [in, out], which it does where their module says so."""
    return bool(getattr(model.get_submodule(parameter.rpartition(".")[0]), "is_transposed", False))


def _packed(experts: int, own: Mapping[int, Sequence[Factors]]) -> Factors:
    """Factors of all experts as PEFT lays them out: a [experts · rank, in], b [out, rank · experts].

    All have the rank of the largest; what an expert does not need is zero.
    """
    joined = {expert: _joined(factors) for expert, factors in own.items()}
    first = next(iter(joined.values()))
    rank = max(factors.rank for factors in joined.values())
    a, b = torch.zeros(experts, rank, first.a.shape[1]), torch.zeros(len(first.b), rank, experts)
    for expert, factors in joined.items():
        a[expert, : factors.rank] = factors.a
        b[:, : factors.rank, expert] = factors.b
    return Factors(a.flatten(0, 1), b.flatten(1))
