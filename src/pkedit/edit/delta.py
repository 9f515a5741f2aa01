"""An edit as a value: changes of write and read vectors, with the originals that they replace.

`delta_a + delta_b`, `delta * 0.5`, `delta.save(path)`, `with delta.applied_to(chat):`. Reverting copies the
stored originals back, so the base model returns bit for bit.
"""

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite

SCHEMA_VERSION = 1
WRITE = "write"
GATE = "read0"


def part_names(site: MlpSite) -> list[str]:
    """The matrices of an MLP that a delta may change: `write`, then `read0` (the gate), `read1` …"""
    return [WRITE, *(f"read{which}" for which in range(len(site.reads)))]


def vectors(site: MlpSite, part: str) -> Tensor:
    """A view [neurons, hidden] of the weights that `part` names."""
    return site.write_vectors() if part == WRITE else site.read_vectors(int(part.removeprefix("read")))


@dataclass(frozen=True, eq=False)
class LayerDelta:
    """The change in one layer. `neurons` [k] ascending; `change` and `original`: part → [k, hidden].

    `change` is float32; `original` has the model's dtype and is what `revert` writes back.
    """

    layer: int
    neurons: Tensor
    change: dict[str, Tensor]
    original: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Delta:
    """Changes in several layers of one base model."""

    layers: tuple[LayerDelta, ...]
    base: str = ""

    def __len__(self) -> int:
        """Neurons changed."""
        return sum(len(layer.neurons) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers changed."""
        return sum(change.numel() for layer in self.layers for change in layer.change.values())

    def apply(self, chat: ChatModel) -> None:
        """Adds the change to the model's weights.

        Raises:
            DeltaError: the model's weights there are not the originals this delta was made for.
        """
        self._check(chat)
        with torch.no_grad():
            for site, layer in self._placed(chat):
                for part, change in layer.change.items():
                    rows = vectors(site, part)
                    at = layer.neurons.to(rows.device)
                    original = layer.original[part].to(rows.device)
                    rows[at] = (original.float() + change.to(rows.device)).to(rows.dtype)

    def revert(self, chat: ChatModel) -> None:
        """Writes the originals back, bit for bit."""
        with torch.no_grad():
            for site, layer in self._placed(chat):
                for part, original in layer.original.items():
                    rows = vectors(site, part)
                    rows[layer.neurons.to(rows.device)] = original.to(rows.device)

    @contextmanager
    def applied_to(self, chat: ChatModel) -> Generator[None]:
        """The edit inside, the base model again afterwards, even when the body raises."""
        self.apply(chat)
        try:
            yield
        finally:
            self.revert(chat)

    def __mul__(self, factor: float) -> "Delta":
        """The same edit, stronger or weaker."""
        return replace(
            self,
            layers=tuple(
                replace(layer, change={part: change * factor for part, change in layer.change.items()})
                for layer in self.layers
            ),
        )

    __rmul__ = __mul__

    def __add__(self, other: "Delta") -> "Delta":
        """Both edits as one. Where both touch a neuron, the originals of the left one count.

        Right for deltas of the same base, and for `first + second` with `second` made on top of `first`.
        """
        own = {layer.layer: layer for layer in self.layers}
        theirs = {layer.layer: layer for layer in other.layers}
        merged = []
        for layer in sorted(own.keys() | theirs.keys()):
            if layer in own and layer in theirs:
                merged.append(_merge(own[layer], theirs[layer]))
            else:
                merged.append(own.get(layer) or theirs[layer])
        return Delta(tuple(merged), self.base or other.base)

    def save(self, path: str | Path, **metadata: object) -> None:
        """Writes a safetensors file; `metadata` is kept as JSON in its header."""
        tensors = {}
        for layer in self.layers:
            prefix = f"layers.{layer.layer}"
            tensors[f"{prefix}.neurons"] = layer.neurons.cpu().contiguous()
            for part in layer.change:
                tensors[f"{prefix}.{part}.change"] = layer.change[part].cpu().contiguous()
                tensors[f"{prefix}.{part}.original"] = layer.original[part].cpu().contiguous()
        header = {"format": "pkedit-delta", "schema_version": str(SCHEMA_VERSION), "base": self.base}
        temporary = Path(path).with_suffix(".tmp")
        save_file(tensors, temporary, {**header, "extra": json.dumps(metadata)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Delta":
        """Reads what `save` wrote.

        Raises:
            DeltaError: not a delta file, damaged, or of another schema version.
        """
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DeltaError(f"{path}: not a readable delta file ({error})") from None
        if header.get("format") != "pkedit-delta" or header.get("schema_version") != str(SCHEMA_VERSION):
            raise DeltaError(f"{path}: not a pkedit delta of schema version {SCHEMA_VERSION}")
        grouped: dict[int, dict[str, Tensor]] = {}
        layers = []
        try:
            for name, tensor in tensors.items():
                _, layer, rest = name.split(".", 2)
                grouped.setdefault(int(layer), {})[rest] = tensor
            for number, content in sorted(grouped.items()):
                parts = sorted(name.removesuffix(".change") for name in content if name.endswith(".change"))
                layers.append(
                    LayerDelta(
                        number,
                        content["neurons"],
                        {part: content[f"{part}.change"] for part in parts},
                        {part: content[f"{part}.original"] for part in parts},
                    )
                )
        except (KeyError, ValueError) as error:
            raise DeltaError(f"{path}: a tensor of the delta is missing or misnamed ({error})") from None
        return cls(tuple(layers), header.get("base", ""))

    def _placed(self, chat: ChatModel) -> Iterable[tuple[MlpSite, LayerDelta]]:
        for layer in self.layers:
            if layer.layer >= len(chat.sites):
                raise DeltaError(f"the delta changes layer {layer.layer}, the model has {len(chat.sites)} layers")
            yield chat.sites[layer.layer], layer

    def _check(self, chat: ChatModel) -> None:
        for site, layer in self._placed(chat):
            if len(layer.neurons) and int(layer.neurons.max()) >= site.neurons:
                raise DeltaError(
                    f"the delta changes neuron {int(layer.neurons.max())} of layer {layer.layer}, "
                    f"which has {site.neurons}"
                )
            for part, original in layer.original.items():
                if not torch.isfinite(layer.change[part]).all():
                    raise DeltaError(f"layer {layer.layer}: the delta holds NaN or Inf")
                rows = vectors(site, part)
                now = rows[layer.neurons.to(rows.device)]
                if now.shape != original.shape or not torch.equal(now.cpu(), original.cpu().to(now.dtype)):
                    raise DeltaError(
                        f"layer {layer.layer}: the model's weights are not those this delta was made for "
                        f"(base {self.base or 'unknown'}); is another edit applied, or the base a different one?"
                    )


def _merge(first: LayerDelta, second: LayerDelta) -> LayerDelta:
    neurons = torch.unique(torch.cat([first.neurons, second.neurons]))
    change, original = {}, {}
    for part in {**first.change, **second.change}:
        sources = [layer for layer in (first, second) if part in layer.change]
        if len(sources) == 1 and len(sources[0].neurons) != len(neurons):
            raise DeltaError("deltas that change different parts of different neurons cannot be added")
        change[part] = torch.zeros(len(neurons), sources[0].change[part].shape[1])
        original[part] = torch.zeros_like(change[part], dtype=sources[0].original[part].dtype)
        for layer in reversed(sources):
            at = torch.searchsorted(neurons, layer.neurons)
            change[part][at] += layer.change[part]
            original[part][at] = layer.original[part]
    return LayerDelta(first.layer, neurons, change, original)
