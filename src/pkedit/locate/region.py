"""Combines the signals into a local region: the few neurons an edit may touch, and why each is among them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pkedit.errors import RegionError


@dataclass(frozen=True, order=True)
class NeuronId:
    """Coordinate `index` of the hidden activation of the MLP in layer `layer`."""

    layer: int
    index: int


@dataclass(frozen=True)
class RegionNeuron:
    """A chosen neuron. `ranks` are percentile ranks in [0, 1] over the candidates, `values` the raw signals."""

    layer: int
    index: int
    score: float
    ranks: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


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

    def by_layer(self) -> dict[int, list[int]]:
        """Sorted neuron indices of each layer that has any, layers ascending."""
        layers: dict[int, list[int]] = {}
        for neuron in sorted(self.neurons, key=lambda neuron: (neuron.layer, neuron.index)):
            layers.setdefault(neuron.layer, []).append(neuron.index)
        return layers

    def save(self, path: str | Path, **extra: object) -> None:
        """Writes the region as JSON, with whatever else is given beside it."""
        Path(path).write_text(json.dumps({**asdict(self), **extra}, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Region":
        """Reads what `save` wrote.

        Raises:
            RegionError: not a region file, or without neurons.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            region = cls(
                tuple(RegionNeuron(**neuron) for neuron in content["neurons"]),
                content["signals"],
                content["layer_totals"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegionError(f"{path}: not a region file ({error})") from None
        if not region.neurons:
            raise RegionError(f"{path}: the region is empty")
        return region


def percentile_ranks(values: Tensor) -> Tensor:
    """Ranks scaled to [0, 1], the largest value at 1; ties share their mean rank."""
    _, inverse, counts = torch.unique(values.flatten(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    middle = last - (counts + 1) / 2
    ranks: Tensor = middle[inverse] / max(values.numel() - 1, 1)
    return ranks.reshape(values.shape)


def choose_region(
    signals: Mapping[str, Sequence[Tensor]],
    weights: Mapping[str, float],
    *,
    count: int,
    layers: tuple[int, int],
    per_layer: int | None = None,
) -> Region:
    """The `count` neurons with the highest weighted mean of percentile ranks.

    Args:
        signals: for each signal one tensor [neurons] per layer; higher is better.
        weights: the weight of each signal; a negative weight ranks low values first.
        count: neurons to choose.
        layers: first and last layer that may be chosen from (inclusive).
        per_layer: at most so many neurons in one layer.

    Raises:
        RegionError: nothing can be chosen (no layer in the range, count below one, no weight), or a signal is
            not finite.
    """
    used = {name: weight for name, weight in weights.items() if weight}
    depth = len(next(iter(signals.values())))
    candidates = range(max(layers[0], 0), min(layers[1], depth - 1) + 1)
    if not used or count < 1 or not candidates:
        raise RegionError(
            f"no neuron matches: layers {layers[0]} to {layers[1]} of a model with layers 0 to {depth - 1}, "
            f"{count} neurons, {len(used)} signals; widen --layers or raise --neurons"
        )
    places = [NeuronId(layer, index) for layer in candidates for index in range(len(signals[next(iter(used))][layer]))]
    ranks, values = {}, {}
    for name, weight in used.items():
        values[name] = torch.cat([signals[name][layer].detach().float().cpu() for layer in candidates])
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
        layer = places[position].layer
        if per_layer is not None and taken.get(layer, 0) >= per_layer:
            continue
        taken[layer] = taken.get(layer, 0) + 1
        chosen.append(position)
        if len(chosen) == count:
            break
    return Region(
        neurons=tuple(
            RegionNeuron(
                places[position].layer,
                places[position].index,
                score=float(score[position]),
                ranks={name: float(rank[position]) for name, rank in ranks.items()},
                values={name: float(value[position]) for name, value in values.items()},
            )
            for position in chosen
        ),
        signals=dict(used),
        layer_totals={name: [float(t.sum()) for t in tensors] for name, tensors in signals.items()},
    )


def random_region(region: Region, neurons_per_layer: Sequence[int], *, seed: int) -> Region:
    """Random neurons, as many in each layer as `region` has, none of them in `region`."""
    generator = torch.Generator().manual_seed(seed)
    neurons = []
    for layer, own in region.by_layer().items():
        excluded = set(own)
        shuffled = torch.randperm(neurons_per_layer[layer], generator=generator).tolist()
        free = [index for index in shuffled if index not in excluded][: len(own)]
        if len(free) < len(own):
            raise RegionError(
                f"layer {layer}: more than half of the neurons are in the region, no room for a random one"
            )
        neurons += [RegionNeuron(layer, index, score=0.0) for index in free]
    return Region(tuple(neurons), {"random": 1.0})
