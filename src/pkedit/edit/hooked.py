"""A trainable δ on a region, acting through hooks while the base weights stay untouched.

h_l += a_l[S] δᵀ on write vectors and gate_l[S] += x δ_rᵀ on read vectors. δ is stored relative to the size of the
vector it changes, so that one learning rate suits every neuron and every model.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pkedit.edit.delta import GATE, WRITE, Delta, LayerDelta, part_names, vectors
from pkedit.errors import DeltaError, RegionError
from pkedit.locate.region import Region
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
from pkedit.models.hooks import added_outputs


class HookedDelta:
    """δ for every neuron of a region and every part (`write`, `read0`, `read1`) that is edited.

    `free[layer, part]` is the trainable tensor [k, hidden]: δ divided by the vector's root mean square, or
    (not `relative`) δ itself.
    """

    def __init__(self, chat: ChatModel, region: Region, parts: tuple[str, ...], *, relative: bool = True) -> None:
        self._chat = chat
        self._neurons: dict[int, Tensor] = {}
        self.free: dict[tuple[int, str], Tensor] = {}
        self._size: dict[tuple[int, str], Tensor] = {}
        self._scale: dict[tuple[int, str], Tensor] = {}
        _check(chat, region, parts)
        for layer, indices in region.by_layer().items():
            site = chat.sites[layer]
            device = site.write_vectors().device
            self._neurons[layer] = torch.tensor(indices, device=device)
            for part in parts:
                original = vectors(site, part).detach()[self._neurons[layer]].float()
                size = original.square().mean(1, keepdim=True).sqrt()
                self._size[layer, part] = torch.where(size > 0, size, size.mean().clamp_min(1e-6))
                self._scale[layer, part] = self._size[layer, part] if relative else torch.ones_like(size)
                self.free[layer, part] = torch.zeros_like(original, requires_grad=True)

    @property
    def lowest_layer(self) -> int:
        """The first layer whose output the edit changes."""
        return min(self._neurons)

    @property
    def layers(self) -> list[int]:
        """The layers with edited neurons, ascending."""
        return sorted(self._neurons)

    @torch.no_grad()
    def open_gates(self, detectors: Mapping[int, Tensor], amount: float) -> None:
        """Starts the gates' δ where their input rises by `amount` per unit that the layer's detector [hidden] reads."""
        for (layer, part), free in self.free.items():
            if part == GATE:
                free.copy_(amount * detectors[layer].to(free) / self._scale[layer, part])

    def norm_penalty(self) -> Tensor:
        """Mean over edited vectors of (‖δ_i‖ / ‖W_i‖)²."""
        ratios = [(free * self._scale[at] / self._size[at]).square().mean(1) for at, free in self.free.items()]
        return torch.cat(ratios).mean()

    @torch.no_grad()
    def limit(self, ratio: float) -> None:
        """Shortens every δ_i to ‖δ_i‖ ≤ ratio · ‖W_i‖."""
        for at, free in self.free.items():
            length = (free * self._scale[at] / self._size[at]).square().mean(1, keepdim=True).sqrt()
            free.mul_((ratio / length.clamp_min(1e-12)).clamp_max(1.0))

    @contextmanager
    def active(self, *, dropout: float = 0.0, generator: torch.Generator | None = None) -> Generator[None]:
        """The edit acts on every forward pass made inside.

        Args:
            dropout: share of the neurons whose write vectors' δ sits out, drawn anew at each call; the others act
                more, so that their sum is expected to be the same (Srivastava et al. 2014).
            generator: of the draw.
        """
        with ExitStack() as stack:
            for (layer, part), free in self.free.items():
                change = free * self._scale[layer, part]
                if dropout and part == WRITE:
                    drawn = torch.rand(len(change), 1, generator=generator).to(change.device)
                    change = change * (drawn >= dropout) / (1 - dropout)
                stack.enter_context(self._acting(self._chat.sites[layer], part, change))
            yield

    @contextmanager
    def _acting(self, site: MlpSite, part: str, change: Tensor) -> Generator[None]:
        neurons = self._neurons[site.layer]

        def add_write(_: int, activation: Tensor, output: Tensor) -> Tensor:
            return output + activation[..., neurons] @ change.to(activation.dtype)

        def add_read(_: int, entering: Tensor, output: Tensor) -> Tensor:
            more = entering @ change.T.to(entering.dtype)
            return output.index_add(-1, neurons, more.to(output.dtype))

        module: nn.Module = site.write if part == WRITE else site.reads[int(part.removeprefix("read"))]
        with added_outputs([module], add_write if part == WRITE else add_read):
            yield

    def freeze(self) -> Delta:
        """The present δ as a value, with the originals that it would replace."""
        layers = []
        for layer, neurons in self._neurons.items():
            parts = [part for at, part in self.free if at == layer]
            layers.append(
                LayerDelta(
                    layer,
                    neurons.cpu(),
                    {part: (self.free[layer, part] * self._scale[layer, part]).detach().cpu() for part in parts},
                    {part: vectors(self._chat.sites[layer], part).detach()[neurons].cpu().clone() for part in parts},
                )
            )
        return Delta(tuple(layers), self._chat.name)


def _check(chat: ChatModel, region: Region, parts: tuple[str, ...]) -> None:
    """That the model has the neurons of the region and the matrices named by `parts`."""
    for layer, indices in region.by_layer().items():
        if layer >= len(chat.sites):
            raise RegionError(
                f"the region names layer {layer}, the model has {len(chat.sites)} layers; was it located in another?"
            )
        if indices[-1] >= chat.sites[layer].neurons:
            raise RegionError(
                f"the region names neuron {indices[-1]} of layer {layer}, the model has {chat.sites[layer].neurons} "
                "there; was it located in another?"
            )
        known = part_names(chat.sites[layer])
        for part in parts:
            if part not in known:
                raise DeltaError(f"{chat.name} has no part {part!r} to edit; choose from {', '.join(known)}")
