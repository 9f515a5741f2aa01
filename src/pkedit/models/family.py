"""Where an architecture keeps its MLP: a table, and a probe that proves the entry on the loaded model.

A new architecture whose MLP has one write matrix and one or two read matrices is one line in `FAMILIES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkedit.errors import ModelLoadError
from pkedit.models.hooks import scaled_activations


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture. `reads[0]` is the gate where there is one."""

    blocks: str
    norm: str
    write: str
    reads: tuple[str, ...]


_LLAMA = Family("model.layers", "model.norm", "mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj"))
_GPT2 = Family("transformer.h", "transformer.ln_f", "mlp.c_proj", ("mlp.c_fc",))

# Keyed by `config.model_type`.
FAMILIES: dict[str, Family] = {
    "gemma": _LLAMA,
    "gpt2": _GPT2,
    "gpt_neox": Family("gpt_neox.layers", "gpt_neox.final_layer_norm", "mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",)),
    "granite": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
}


@dataclass(frozen=True, eq=False)
class MlpSite:
    """The MLP of one decoder layer.

    Neuron i's write vector is what it adds to the residual stream per unit of activation; its read vectors
    are the rows that decide the activation. `transposed` marks GPT-2's Conv1D, which stores [in, out].
    """

    layer: int
    block: nn.Module
    write: nn.Module
    reads: tuple[nn.Module, ...]
    transposed: bool

    @property
    def write_weight(self) -> Tensor:
        """The write matrix as the model stores it."""
        return self._weight(self.write)

    @property
    def neurons(self) -> int:
        """Neurons of this layer (the intermediate size)."""
        weight = self._weight(self.write)
        return weight.shape[0] if self.transposed else weight.shape[1]

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        weight = self._weight(self.write)
        return weight.shape[1] if self.transposed else weight.shape[0]

    def write_vectors(self) -> Tensor:
        """A view of the write vectors, [neurons, hidden]."""
        weight = self._weight(self.write)
        return weight if self.transposed else weight.T

    def read_vectors(self, which: int = 0) -> Tensor:
        """A view of the read vectors of `reads[which]`, [neurons, hidden]."""
        weight = self._weight(self.reads[which])
        return weight.T if self.transposed else weight

    @staticmethod
    def _weight(module: nn.Module) -> Tensor:
        weight = module.weight
        if not isinstance(weight, Tensor):
            raise ModelLoadError(f"{type(module).__name__} has no weight tensor; is the model quantised?")
        return weight


def find_sites(model: nn.Module) -> tuple[MlpSite, ...]:
    """The MLP of every decoder layer, by the family table.

    Raises:
        ModelLoadError: the architecture is not in the table, or the table does not fit this model.
    """
    family = family_of(model)
    sites = []
    for layer, block in enumerate(blocks_of(model)):
        try:
            write = block.get_submodule(family.write)
            reads = tuple(block.get_submodule(path) for path in family.reads)
        except AttributeError as error:
            raise ModelLoadError(f"layer {layer} does not look like its family says: {error}") from None
        sites.append(MlpSite(layer, block, write, reads, type(write).__name__ == "Conv1D"))
    return tuple(sites)


def family_of(model: nn.Module) -> Family:
    """The table's entry for this model."""
    model_type = str(getattr(model.config, "model_type", "unknown"))
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelLoadError(
            f"the architecture {model_type!r} is not supported yet (supported: {known}). "
            "To add it, give its module paths one line in pkedit/models/family.py."
        )
    return FAMILIES[model_type]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, in order."""
    return list(model.get_submodule(family_of(model).blocks).children())


def probe(model: nn.Module, sites: Sequence[MlpSite]) -> None:
    """Proves the sites on the loaded model: shapes agree, neurons reach the logits, columns are neurons.

    Zeroing a neuron's activation and zeroing its write vector must give the same logits, and other logits
    than before: this fails where rows were taken for columns. The weights are put back bit for bit.

    Raises:
        ModelLoadError: one of the three does not hold; the message says which, and in which layer.
    """
    for site in sites:
        for which in range(len(site.reads)):
            if site.read_vectors(which).shape != (site.neurons, site.hidden):
                raise ModelLoadError(
                    f"layer {site.layer}: read weights of shape {tuple(site.read_vectors(which).shape)}, "
                    f"expected {(site.neurons, site.hidden)}"
                )
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    device = next(model.parameters()).device
    token_ids = torch.arange(1, 9, device=device).remainder(vocabulary).unsqueeze(0)
    for site in (sites[0], sites[-1]):
        with torch.no_grad():
            plain = model(token_ids).logits.float()
            some = torch.arange(0, site.neurons, 2, device=device)
            with scaled_activations(site.write, some, 0.0):
                silenced = model(token_ids).logits.float()
            kept = site.write_vectors()[some].clone()
            site.write_vectors()[some] = 0.0
            try:
                ablated = model(token_ids).logits.float()
            finally:
                site.write_vectors()[some] = kept
        scale = (plain - silenced).abs().max()
        if not scale > 0:
            raise ModelLoadError(f"layer {site.layer}: silencing half of the neurons did not change the logits")
        if not torch.allclose(silenced, ablated, atol=float(scale) * 0.05):
            raise ModelLoadError(f"layer {site.layer}: zeroing write vectors differs from silencing their neurons")
