"""Combines the signals into a local region: the few neurons an edit may touch, and why each is among them."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import total_ordering
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pkedit.errors import RegionError, first_line
from pkedit.models.family import SiteId, site_order
from pkedit.settings import LocateSettings

SCHEMA_VERSION = 1


@total_ordering
@dataclass(frozen=True)
class NeuronId:
    """Coordinate `index` of the hidden activation of the MLP in layer `layer`, or of its routed expert `expert`.

    Ordered by layer, then expert (the MLP that all tokens pass first), then index.
    """

    layer: int
    index: int
    expert: int | None = None

    @property
    def site(self) -> SiteId:
        """The MLP it belongs to."""
        return self.layer, self.expert

    def __lt__(self, other: "NeuronId") -> bool:
        return self.order() < other.order()

    def order(self) -> tuple[int, int, int]:
        """What neurons are sorted by."""
        return (*site_order(self.site), self.index)


@dataclass(frozen=True)
class RegionNeuron:
    """A chosen neuron. `ranks` are percentile ranks in [0, 1] over the candidates, `values` the raw signals."""

    layer: int
    index: int
    score: float
    ranks: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    expert: int | None = None

    @property
    def id(self) -> NeuronId:
        """Which neuron it is."""
        return NeuronId(self.layer, self.index, self.expert)


@dataclass(frozen=True)
class Region:
    """The neurons to edit, best first. `signals` holds the weight that each signal had in the score.

    `layer_totals[signal][l]` is the signal's total over all neurons of layer l, for the profile of the model.
    """

    neurons: tuple[RegionNeuron, ...]
    signals: dict[str, float]
    layer_totals: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.neurons)

    def by_site(self) -> dict[SiteId, list[int]]:
        """Sorted neuron indices of each MLP that has any, layers and then experts ascending."""
        sites: dict[SiteId, list[int]] = {}
        # By key: a whole layer of experts has a hundred thousand.
        for neuron in sorted((neuron.id for neuron in self.neurons), key=NeuronId.order):
            sites.setdefault(neuron.site, []).append(neuron.index)
        return sites

    def by_layer(self) -> dict[int, list[int]]:
        """Sorted neuron indices of each layer that has any, layers ascending; of experts, those of all of them."""
        layers: dict[int, list[int]] = {}
        for neuron in sorted(self.neurons, key=lambda neuron: (neuron.layer, neuron.index)):
            layers.setdefault(neuron.layer, []).append(neuron.index)
        return layers

    @property
    def lowest_layer(self) -> int:
        """The first layer with a neuron of the region."""
        return min(neuron.layer for neuron in self.neurons)

    def save(self, path: str | Path, *, layer_weight_change: Sequence[float] = ()) -> None:
        """Writes the region as JSON, and beside it ‖W_after − W_before‖_F of each layer where that is known."""
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for neuron in content["neurons"]:
            if neuron["expert"] is None:
                del neuron["expert"]
        Path(path).write_text(
            json.dumps({**content, "layer_weight_change": [*layer_weight_change]}, indent=1), encoding="utf-8"
        )

    @classmethod
    def load(cls, path: str | Path) -> "Region":
        """Reads what `save` wrote.

        Raises:
            RegionError: not a region file, of another schema version, without neurons, or with one of them twice.
        """
        try:
            read = _RegionFile.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            raise RegionError(
                f"{path}: not a region file of schema version {SCHEMA_VERSION} ({first_line(error)}); "
                "name the region.json of a run, or locate again with this pkedit in another --out"
            ) from None
        except (OSError, ValueError) as error:
            raise RegionError(f"{path}: not a region file ({error}); name the region.json of a run") from None
        region = cls(
            tuple(RegionNeuron(**neuron.model_dump()) for neuron in read.neurons), read.signals, read.layer_totals
        )
        if not region.neurons:
            raise RegionError(f"{path}: the region is empty; locate again in another --out")
        if len({neuron.id for neuron in region.neurons}) < len(region):
            raise RegionError(f"{path}: a neuron is in the region twice; locate again in another --out")
        return region


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _NeuronInFile(_File):
    """A `RegionNeuron` as it is stored."""

    layer: int = Field(ge=0)
    index: int = Field(ge=0)
    score: float
    ranks: dict[str, float] = {}
    values: dict[str, float] = {}
    expert: int | None = Field(None, ge=0)


class _RegionFile(_File):
    """`region.json`; without a version it is of before there was one, and otherwise the same."""

    schema_version: Literal[1] = 1
    neurons: list[_NeuronInFile]
    signals: dict[str, float]
    layer_totals: dict[str, list[float]]
    layer_weight_change: list[float] = []


def percentile_ranks(values: Tensor) -> Tensor:
    """Ranks scaled to [0, 1], the largest value at 1; ties share their mean rank."""
    _, inverse, counts = torch.unique(values.flatten(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    middle = last - (counts + 1) / 2
    ranks: Tensor = middle[inverse] / max(values.numel() - 1, 1)
    return ranks.reshape(values.shape)


def candidate_layers(settings: LocateSettings, layers: int) -> range:
    """The layers that neurons may be chosen from, in a model with so many.

    Raises:
        RegionError: there is none.
    """
    first, last = (round(share * (layers - 1)) for share in (settings.first_layer, settings.last_layer))
    if first > last:
        raise RegionError(
            f"no neuron matches: layers {first} to {last} of a model with layers 0 to {layers - 1}; widen --layers"
        )
    return range(first, last + 1)


def choose_region(
    signals: Mapping[str, Sequence[Tensor]],
    weights: Mapping[str, float],
    *,
    count: int,
    layers: tuple[int, int],
    per_layer: int | None = None,
    sites: Sequence[SiteId] | None = None,
) -> Region:
    """The `count` neurons with the highest weighted mean of percentile ranks.

    Args:
        signals: for each signal one tensor [neurons] per MLP; higher is better.
        weights: the weight of each signal; a negative weight ranks low values first.
        count: neurons to choose.
        layers: first and last layer that may be chosen from (inclusive).
        per_layer: at most so many neurons in one layer.
        sites: layer and expert of each MLP; one MLP in each layer if absent.

    Raises:
        RegionError: nothing can be chosen (no layer in the range, count below one, no weight), or a signal is
            not finite.
    """
    used = {name: weight for name, weight in weights.items() if weight}
    sites = sites or [(layer, None) for layer in range(len(next(iter(signals.values()))))]
    depth = 1 + max(layer for layer, _ in sites)
    candidates = [place for place, (layer, _) in enumerate(sites) if layers[0] <= layer <= layers[1]]
    if not used or count < 1 or not candidates:
        raise RegionError(
            f"no neuron matches: layers {layers[0]} to {layers[1]} of a model with layers 0 to {depth - 1}, "
            f"{count} neurons, {len(used)} signals; widen --layers or raise --neurons"
        )
    places = _Places([sites[place] for place in candidates], [len(signals[next(iter(used))][at]) for at in candidates])
    ranks, values = {}, {}
    for name, weight in used.items():
        values[name] = torch.cat([signals[name][place].detach().float().cpu() for place in candidates])
        if not torch.isfinite(values[name]).all():
            # NaN sorts above every number, so it would be chosen first.
            raise RegionError(f"the signal {name!r} is NaN or Inf for some neurons; try float32 (--dtype float32)")
        ranked = percentile_ranks(values[name])
        ranks[name] = ranked if weight > 0 else 1.0 - ranked
    total = sum(abs(weight) for weight in used.values())
    score = sum(abs(weight) / total * ranks[name] for name, weight in used.items())
    assert isinstance(score, Tensor)
    chosen: list[int] = []
    taken: dict[int, int] = {}
    for position in score.argsort(descending=True, stable=True).tolist():
        layer = places.of(position).layer
        if per_layer is not None and taken.get(layer, 0) >= per_layer:
            continue
        taken[layer] = taken.get(layer, 0) + 1
        chosen.append(position)
        if len(chosen) == count:
            break
    return Region(
        neurons=tuple(
            RegionNeuron(
                places.of(position).layer,
                places.of(position).index,
                score=float(score[position]),
                ranks={name: float(rank[position]) for name, rank in ranks.items()},
                values={name: float(value[position]) for name, value in values.items()},
                expert=places.of(position).expert,
            )
            for position in chosen
        ),
        signals=dict(used),
        layer_totals={name: _layer_totals(sites, tensors) for name, tensors in signals.items()},
    )


def _layer_totals(sites: Sequence[SiteId], tensors: Sequence[Tensor]) -> list[float]:
    """The sum over all MLPs of each layer."""
    totals = [0.0] * (1 + max(layer for layer, _ in sites))
    for (layer, _), tensor in zip(sites, tensors, strict=True):
        totals[layer] += float(tensor.sum())
    return totals


class _Places:
    """Which neuron each position is in the neurons of several MLPs one behind the other."""

    def __init__(self, sites: Sequence[SiteId], sizes: Sequence[int]) -> None:
        self._sites = sites
        self._ends = list(accumulate(sizes))

    def of(self, position: int) -> NeuronId:
        place = bisect_right(self._ends, position)
        layer, expert = self._sites[place]
        return NeuronId(layer, position - (self._ends[place - 1] if place else 0), expert)


def random_region(region: Region, neurons: Mapping[SiteId, int] | Sequence[int], *, seed: int) -> Region:
    """Random neurons, as many in each MLP as `region` has, none of them in `region`.

    Args:
        region: what the random one is to be compared with.
        neurons: how many each MLP has; a sequence where there is one in each layer.
        seed: of the draw.

    Raises:
        RegionError: more than half of an MLP's neurons are in `region`.
    """
    sizes: dict[SiteId, int] = (
        dict(neurons) if isinstance(neurons, Mapping) else {(layer, None): size for layer, size in enumerate(neurons)}
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for (layer, expert), own in region.by_site().items():
        excluded = set(own)
        shuffled = torch.randperm(sizes[layer, expert], generator=generator).tolist()
        free = [index for index in shuffled if index not in excluded][: len(own)]
        if len(free) < len(own):
            where = f"layer {layer}" if expert is None else f"layer {layer}, expert {expert}"
            raise RegionError(
                f"{where}: more than half of the neurons are in the region, no room for a random one; lower --neurons"
            )
        drawn += [RegionNeuron(layer, index, score=0.0, expert=expert) for index in free]
    return Region(tuple(drawn), {"random": 1.0})
