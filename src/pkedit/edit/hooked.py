"""A trainable δ on a region, acting through hooks while the base weights stay untouched.

h_l += a_l[S] δᵀ on write vectors and gate_l[S] += x δ_rᵀ on read vectors. δ is stored relative to the size of the
vector it changes, so that one learning rate suits every neuron and every model.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from pkedit.edit.base import base_facts
from pkedit.edit.delta import GATE, WRITE, Delta, LayerDelta, part_names, read_of, vectors
from pkedit.errors import DeltaError, RegionError
from pkedit.locate.region import Region
from pkedit.models.acting import acting
from pkedit.models.chat import ChatModel
from pkedit.models.family import SiteId

# Layer, expert and part.
Place = tuple[int, int | None, str]


class HookedDelta:
    """δ for every neuron of a region and every part (`write`, `read0`, `read1`) that is edited.

    `free[layer, expert, part]` is the trainable tensor [k, hidden]: δ divided by the vector's root mean square, or
    (not `relative`) δ itself. `expert` is None but for routed experts.
    """

    def __init__(self, chat: ChatModel, region: Region, parts: tuple[str, ...], *, relative: bool = True) -> None:
        self._chat = chat
        self._neurons: dict[SiteId, Tensor] = {}
        self.free: dict[Place, Tensor] = {}
        self._size: dict[Place, Tensor] = {}
        self._scale: dict[Place, Tensor] = {}
        _check(chat, region, parts)
        for at, indices in region.by_site().items():
            site = chat.places[at]
            self._neurons[at] = torch.tensor(indices, device=site.device)
            for part in parts:
                original = vectors(site, part).detach()[self._neurons[at]].float()
                size = original.square().mean(1, keepdim=True).sqrt()
                self._size[*at, part] = torch.where(size > 0, size, size.mean().clamp_min(1e-6))
                self._scale[*at, part] = self._size[*at, part] if relative else torch.ones_like(size)
                self.free[*at, part] = torch.zeros_like(original, requires_grad=True)

    @property
    def lowest_layer(self) -> int:
        """The first layer whose output the edit changes."""
        return self.layers[0]

    @property
    def layers(self) -> list[int]:
        """The layers with edited neurons, ascending."""
        return sorted({layer for layer, _ in self._neurons})

    @torch.no_grad()
    def open_gates(self, detectors: Mapping[int, Tensor], amount: float) -> None:
        """Starts the gates' δ where their input rises by `amount` per unit that the layer's detector [hidden] reads."""
        for (layer, expert, part), free in self.free.items():
            if part == GATE:
                free.copy_(amount * detectors[layer].to(free) / self._scale[layer, expert, part])

    def norm_penalty(self) -> Tensor:
        """Mean over edited vectors of (‖δ_i‖ / ‖W_i‖)²."""
        ratios = [(free * self._scale[at] / self._size[at]).square().mean(1) for at, free in self.free.items()]
        return torch.cat([ratio.to(ratios[0].device) for ratio in ratios]).mean()

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
            for (layer, expert, part), free in self.free.items():
                change = free * self._scale[layer, expert, part]
                if dropout and part == WRITE:
                    drawn = torch.rand(len(change), 1, generator=generator).to(change.device)
                    change = change * (drawn >= dropout) / (1 - dropout)
                site, neurons = self._chat.places[layer, expert], self._neurons[layer, expert]
                stack.enter_context(acting(site, read_of(part), neurons, change))
            yield

    def freeze(self) -> Delta:
        """The present δ as a value, with the originals that it would replace."""
        layers = []
        for at, neurons in self._neurons.items():
            parts = [part for *place, part in self.free if tuple(place) == at]
            layers.append(
                LayerDelta(
                    at[0],
                    neurons.cpu(),
                    {part: (self.free[*at, part] * self._scale[*at, part]).detach().cpu() for part in parts},
                    {part: vectors(self._chat.places[at], part).detach()[neurons].cpu().clone() for part in parts},
                    at[1],
                )
            )
        return Delta(tuple(layers), self._chat.name, base_facts(self._chat))


def _check(chat: ChatModel, region: Region, parts: tuple[str, ...]) -> None:
    """That the model has the neurons of the region and the matrices named by `parts`."""
    for (layer, expert), indices in region.by_site().items():
        if layer >= chat.layers:
            raise RegionError(
                f"the region names layer {layer}, the model has {chat.layers} layers; was it located in another? "
                "Locate again"
            )
        site = chat.places.get((layer, expert))
        if site is None:
            what = "an MLP that all tokens pass" if expert is None else f"an expert {expert}"
            raise RegionError(
                f"the region names {what} in layer {layer}, where the model has none; locate again in this model"
            )
        if indices[-1] >= site.neurons:
            raise RegionError(
                f"the region names neuron {indices[-1]} of {site.name}, the model has {site.neurons} "
                "there; was it located in another? Locate again"
            )
        known = part_names(site)
        for part in parts:
            if part not in known:
                raise DeltaError(f"{chat.name} has no part {part!r} to edit; choose from {', '.join(known)}")
