"""The MLPs of a loaded model as sites: which neurons there are, and where their weights lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkedit.errors import ModelLoadError
from pkedit.models.experts import expert_views, stored_in, tokens_of
from pkedit.models.families import FAMILIES, Experts, Family, Mlp
from pkedit.models.quantised import bits_of, matrix_of, shape_of_matrix
from pkedit.models.structure import WAY_OUT, body_of, children_of, family_by_structure

# A decoder layer, and which of its routed experts; None for its dense MLP and for the experts that all tokens share.
SiteId = tuple[int, int | None]


def site_order(site: SiteId) -> tuple[int, int]:
    """Sorts MLPs by layer, and in a layer the one of all tokens before the experts."""
    return site[0], -1 if site[1] is None else site[1]


@dataclass(frozen=True, eq=False)
class ReadMatrix:
    """Neuron i's pre-activation is output `start + step · i` of `module`."""

    module: nn.Module
    start: int = 0
    step: int = 1


@dataclass(frozen=True, eq=False)
class MlpSite:
    """One MLP of a decoder layer: the dense or shared one, or routed expert number `expert`.

    Neuron i's write vector is what it adds to the residual stream per unit of activation; its read vectors
    are the rows that decide the activation. `transposed` marks weights that are stored [in, out] (GPT-2's Conv1D).
    `entrance` is the module whose input is the MLP's, for all tokens of the layer.

    The modules of a routed expert see only the tokens sent to it, [routed tokens, width], and are not called when
    there are none; `routed_tokens` says which those are. Others see [batch, tokens, width], which some models flatten.
    """

    layer: int
    block: nn.Module
    write: nn.Module
    reads: tuple[ReadMatrix, ...]
    transposed: bool
    expert: int | None = None
    entrance: nn.Module | None = None

    @property
    def id(self) -> SiteId:
        """The layer, and the routed expert if it is one."""
        return self.layer, self.expert

    @property
    def name(self) -> str:
        """For messages: `layer 3` or `layer 3, expert 5`."""
        return f"layer {self.layer}" if self.expert is None else f"layer {self.layer}, expert {self.expert}"

    @property
    def input_module(self) -> nn.Module:
        """The module whose first input is the MLP's input of every token of the layer."""
        return self.entrance or self.reads[0].module

    @property
    def write_weight(self) -> Tensor:
        """The write matrix as the model stores it; of an expert, a view into the parameter of all."""
        return self._weight(self.write)

    @property
    def write_parameter(self) -> nn.Parameter:
        """The parameter that holds the write matrix, alone or with those of other experts.

        Raises:
            ModelLoadError: it is quantised.
        """
        if self.quantised:
            raise ModelLoadError(f"{self.name}: its write matrix is quantised, and nothing can be written to it")
        return stored_in([self.write])[0]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        weight = self.write.weight
        assert isinstance(weight, Tensor)
        return weight.device

    @property
    def quantised(self) -> bool:
        """Whether some of its weights are stored in 4 or 8 bits: an edit then acts through hooks."""
        return any(bits_of(module) for module in [self.write, *(read.module for read in self.reads)])

    @property
    def neurons(self) -> int:
        """Neurons of this MLP (the intermediate size)."""
        return self._shape(self.write)[0]

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self._shape(self.write)[1]

    @property
    def routed_tokens(self) -> Tensor | None:
        """In a forward pass, the token of each row that the modules see, row · tokens + column; None if it is all."""
        return tokens_of(self.write)

    def write_vectors(self) -> Tensor:
        """A view of the write vectors, [neurons, hidden]; a de-quantised copy where they are `quantised`."""
        weight = self._weight(self.write)
        return weight if self.transposed else weight.T

    def read_vectors(self, which: int = 0) -> Tensor:
        """A view of the read vectors of `reads[which]`, [neurons, hidden]; a copy where they are `quantised`."""
        read = self.reads[which]
        weight = self._weight(read.module)
        rows = weight.T if self.transposed else weight
        return rows[read.start : read.start + read.step * (self.neurons - 1) + 1 : read.step]

    def own_part(self, stored: Tensor) -> Tensor:
        """This MLP's write matrix in a copy of `write_parameter`."""
        return stored if self.expert is None else stored[self.expert]

    def read_outputs(self, which: int, neurons: Tensor) -> Tensor:
        """Where the pre-activations of these neurons stand among the outputs of `reads[which].module`."""
        return self.reads[which].start + self.reads[which].step * neurons

    def _weight(self, module: nn.Module) -> Tensor:
        return matrix_of(module, transposed=self.transposed)

    def _shape(self, module: nn.Module) -> tuple[int, int]:
        """(neurons, hidden) of a matrix that is laid out like the write matrix."""
        rows, columns = shape_of_matrix(module, transposed=self.transposed)
        return (rows, columns) if self.transposed else (columns, rows)


def family_of(model: Any, mlp_write: str | None = None) -> Family:
    """The table's entry for this model, or what its structure shows where it has none.

    Args:
        model: a causal language model.
        mlp_write: the path of the write matrix, relative to a decoder layer, instead of both.

    Raises:
        ModelLoadError: neither tells where the MLPs are.
    """
    if mlp_write is None:
        # A model that also sees or hears is known by the part of it that reads.
        for config in (model.config, model.config.get_text_config()):
            if config.model_type in FAMILIES:
                return FAMILIES[config.model_type]
    return family_by_structure(model, mlp_write)


def blocks_of(model: nn.Module, family: Family) -> list[nn.Module]:
    """The decoder layers, in order."""
    return children_of(body_of(model), family.blocks)


def find_sites(model: nn.Module, family: Family | None = None) -> tuple[MlpSite, ...]:
    """All MLPs of the model, layers ascending; in a layer, the dense or shared one first, then the routed experts.

    Routed experts become modules that hooks can be put on: see `experts.py`.

    Raises:
        ModelLoadError: the family does not fit this model.
    """
    family = family or family_of(model)
    sites: list[MlpSite] = []
    for layer, block in enumerate(blocks_of(model, family)):
        found = [*_dense(layer, block, family), *_routed(layer, block, family)]
        if not found:
            wanted = ", ".join([*(mlp.write for mlp in family.mlps), *(experts.path for experts in family.experts)])
            raise ModelLoadError(
                f"layer {layer} does not look like its family says: it has none of {wanted}. {WAY_OUT}"
            )
        if sum(site.expert is None for site in found) > 1:
            raise ModelLoadError(f"layer {layer} has more than one MLP that sees all tokens; give one with --mlp-write")
        sites += found
    if not sites:
        raise ModelLoadError("the model has no decoder layers; choose a decoder-only chat model")
    return tuple(sites)


def _dense(layer: int, block: nn.Module, family: Family) -> Iterator[MlpSite]:
    """The MLPs of a layer that see all tokens: one, or none where all are routed."""
    for mlp in family.mlps:
        write = _part(block, mlp.write)
        if write is not None:
            reads = _reads(layer, block, mlp, MlpSite(layer, block, write, (), mlp.transposed).neurons)
            yield MlpSite(layer, block, write, reads, mlp.transposed)


def _reads(layer: int, block: nn.Module, mlp: Mlp, neurons: int) -> tuple[ReadMatrix, ...]:
    modules = []
    for path in mlp.reads:
        module = _part(block, path)
        if module is None:
            raise ModelLoadError(
                f"layer {layer} does not look like its family says: it has {mlp.write}, but no {path}. {WAY_OUT}"
            )
        modules.append(module)
    if mlp.fused:
        return ReadMatrix(modules[0]), ReadMatrix(modules[0], start=neurons)
    return tuple(ReadMatrix(module) for module in modules)


def _routed(layer: int, block: nn.Module, family: Family) -> Iterator[MlpSite]:
    """The routed experts of a layer."""
    for layout in family.experts:
        experts = _part(block, layout.path)
        if experts is None:
            continue
        entrance = block.get_submodule(layout.path.rpartition(".")[0])
        for number, views in enumerate(expert_views(experts, layout)):
            yield MlpSite(
                layer,
                block,
                views.write,
                _expert_reads(views.read, layout),
                layout.transposed,
                expert=number,
                entrance=entrance,
            )


def _expert_reads(module: Any, layout: Experts) -> tuple[ReadMatrix, ...]:
    if layout.interleaved:
        return ReadMatrix(module, 0, 2), ReadMatrix(module, 1, 2)
    return ReadMatrix(module), ReadMatrix(module, start=module.weight.shape[1 if layout.transposed else 0] // 2)


def _part(block: nn.Module, path: str) -> nn.Module | None:
    """The module at this path, if the layer has one."""
    for name in path.split("."):
        child = getattr(block, name, None)
        if not isinstance(child, nn.Module):
            return None
        block = child
    return block
