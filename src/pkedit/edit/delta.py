"""An edit as a value: changes of write and read vectors, with the originals that they replace.

`delta_a + delta_b`, `delta * 0.5`, `delta.save(path)`, `with delta.applied_to(chat):`. Reverting copies the
stored originals back, so the base model returns bit for bit.
"""

import json
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pkedit.edit.base import BaseFacts, check_base
from pkedit.edit.delta_file import ANEW, FORMAT, SCHEMA_VERSION, check_layer, read_file
from pkedit.edit.tensor_file import save_tensors
from pkedit.errors import DeltaError
from pkedit.models.acting import acting
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite, SiteId, site_order

# How far the same de-quantised weights may lie apart, of their length.
SAME = 0.01
WRITE = "write"
GATE = "read0"


def part_names(site: MlpSite) -> list[str]:
    """The matrices of an MLP that a delta may change: `write`, then `read0` (the gate), `read1` …"""
    return [WRITE, *(f"read{which}" for which in range(len(site.reads)))]


def read_of(part: str) -> int | None:
    """The number of the read matrix that `part` names; None for the write matrix."""
    return None if part == WRITE else int(part.removeprefix("read"))


def vectors(site: MlpSite, part: str) -> Tensor:
    """A view [neurons, hidden] of the weights that `part` names; a de-quantised copy where they are quantised."""
    which = read_of(part)
    return site.write_vectors() if which is None else site.read_vectors(which)


@dataclass(frozen=True, eq=False)
class LayerDelta:
    """The change in one MLP. `neurons` [k] ascending; `change` and `original`: part → [k, hidden].

    `change` is float32; `original` has the model's dtype and is what `revert` writes back. `expert` is the routed
    expert of the layer; None for the MLP of all tokens.
    """

    layer: int
    neurons: Tensor
    change: dict[str, Tensor]
    original: dict[str, Tensor]
    expert: int | None = None

    @property
    def site(self) -> SiteId:
        """The MLP that is changed."""
        return self.layer, self.expert

    @property
    def name(self) -> str:
        """For messages, and in a file: `layers.3` or `layers.3.experts.5`."""
        return f"layers.{self.layer}" if self.expert is None else f"layers.{self.layer}.experts.{self.expert}"


@dataclass(frozen=True, eq=False)
class Delta:
    """Changes in several MLPs of one base model, layers and then experts ascending.

    `base` is its name; `made_for` says what it is, absent in files from before that was kept.
    """

    layers: tuple[LayerDelta, ...]
    base: str = ""
    made_for: BaseFacts | None = None

    def __len__(self) -> int:
        """Neurons changed."""
        return sum(len(layer.neurons) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers changed."""
        return sum(change.numel() for layer in self.layers for change in layer.change.values())

    @property
    def dtype(self) -> str | None:
        """The dtype of the originals, which was the model's when the delta was made; None where nothing changes."""
        originals = (original for layer in self.layers for original in layer.original.values())
        return next((str(original.dtype).removeprefix("torch.") for original in originals), None)

    def apply(self, chat: ChatModel) -> None:
        """Adds the change to the model's weights.

        Raises:
            DeltaError: the model is of another kind than this delta's base, its weights there are not the originals, or
                they are quantised, so that nothing can be written to them: there, use `applied_to`.
        """
        self._check_writable(chat)
        try:
            self._write(chat)
        except BaseException:
            # Half an edit is none.
            self.revert(chat)
            raise

    def _check_writable(self, chat: ChatModel) -> None:
        self.check(chat)
        if self._quantised(chat):
            raise DeltaError(
                f"the weights of {chat.name} are quantised, so that no edit can be written to them; it can act "
                "meanwhile (Delta.applied_to), or go onto the full-precision weights (pkedit export --base MODEL)"
            )

    def _write(self, chat: ChatModel) -> None:
        with torch.no_grad():
            for site, layer in self._placed(chat):
                for part, change in layer.change.items():
                    rows = vectors(site, part)
                    at = layer.neurons.to(rows.device)
                    original = layer.original[part].to(rows.device)
                    rows[at] = (original.float() + change.to(rows.device)).to(rows.dtype)

    def revert(self, chat: ChatModel) -> None:
        """Writes the originals back, bit for bit. Quantised weights were never written to."""
        if self._quantised(chat):
            return
        with torch.no_grad():
            for site, layer in self._placed(chat):
                for part, original in layer.original.items():
                    rows = vectors(site, part)
                    rows[layer.neurons.to(rows.device)] = original.to(rows.device, rows.dtype)

    @contextmanager
    def applied_to(self, chat: ChatModel) -> Generator[None]:
        """The edit inside, the base model again afterwards, even when the body raises.

        On quantised weights it acts through hooks, in the precision of the activations.

        Raises:
            DeltaError: the model is of another kind than this delta's base, or its weights are not the originals.
        """
        if self._quantised(chat):
            self.check(chat)
            with ExitStack() as stack:
                for site, layer in self._placed(chat):
                    neurons = layer.neurons.to(site.device)
                    for part, change in layer.change.items():
                        stack.enter_context(acting(site, read_of(part), neurons, change.to(site.device)))
                yield
            return
        self._check_writable(chat)
        try:
            # Inside: an interruption half way leaves nothing of the edit behind.
            self._write(chat)
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
        own = {layer.site: layer for layer in self.layers}
        theirs = {layer.site: layer for layer in other.layers}
        merged = []
        for site in sorted(own.keys() | theirs.keys(), key=site_order):
            if site in own and site in theirs:
                merged.append(_merge(own[site], theirs[site]))
            else:
                merged.append(own.get(site) or theirs[site])
        if self.made_for and other.made_for and self.made_for != other.made_for:
            found = "; ".join(self.made_for.differences(other.made_for))
            raise DeltaError(
                f"edits of different models cannot be added: the base of one has {found}; add edits of one model"
            )
        return Delta(tuple(merged), self.base or other.base, self.made_for or other.made_for)

    def save(self, path: str | Path, **metadata: object) -> None:
        """Writes a safetensors file; `metadata` is kept as JSON in its header.

        Raises:
            OSError: it cannot be written.
        """
        tensors = {}
        for layer in self.layers:
            prefix = layer.name
            tensors[f"{prefix}.neurons"] = layer.neurons.cpu().contiguous()
            for part in layer.change:
                tensors[f"{prefix}.{part}.change"] = layer.change[part].cpu().contiguous()
                tensors[f"{prefix}.{part}.original"] = layer.original[part].cpu().contiguous()
        header = {"format": FORMAT, "schema_version": str(SCHEMA_VERSION), "base": self.base}
        if self.made_for is not None:
            header["made_for"] = self.made_for.to_json()
        save_tensors(tensors, Path(path), {**header, "extra": json.dumps(metadata)})

    @classmethod
    def load(cls, path: str | Path) -> "Delta":
        """Reads what `save` wrote.

        Raises:
            DeltaError: not a delta file, damaged, of another schema version, or it cannot be an edit of any model.
        """
        header, sites = read_file(path)
        layers = []
        for (layer, expert), content in sites:
            if "neurons" not in content:
                raise DeltaError(f"{path}: a tensor of layer {layer} is missing (neurons); {ANEW}")
            changes, originals = (
                {name.removesuffix(end): tensor for name, tensor in sorted(content.items()) if name.endswith(end)}
                for end in (".change", ".original")
            )
            read = LayerDelta(layer, content["neurons"], changes, originals, expert)
            check_layer(f"{path}: {read.name}", read.neurons, read.change, read.original)
            layers.append(read)
        made_for = BaseFacts.from_json(header["made_for"]) if "made_for" in header else None
        return cls(tuple(layers), header.get("base", ""), made_for)

    def _placed(self, chat: ChatModel) -> Iterable[tuple[MlpSite, LayerDelta]]:
        for layer in self.layers:
            if layer.layer >= chat.layers:
                raise DeltaError(
                    f"the delta changes layer {layer.layer}, the model has {chat.layers} layers; name the model it "
                    "was made for"
                )
            if layer.site not in chat.places:
                raise DeltaError(
                    f"the delta changes {layer.name}, which the model does not have; name the one it was made for"
                )
            yield chat.places[layer.site], layer

    def _quantised(self, chat: ChatModel) -> bool:
        return any(chat.places[layer.site].quantised for layer in self.layers if layer.site in chat.places)

    def check(self, chat: ChatModel) -> None:
        """That this edit was made for this model, as it is now.

        Raises:
            DeltaError: it was not, or it is no edit of any model: it holds NaN, a neuron twice, or wrong shapes.
        """
        if self.made_for is not None:
            check_base(self.made_for, chat, self.base)
        for site, layer in self._placed(chat):
            check_layer(site.name, layer.neurons, layer.change, layer.original)
            if len(layer.neurons) and int(layer.neurons.max()) >= site.neurons:
                raise DeltaError(
                    f"the delta changes neuron {int(layer.neurons.max())} of {site.name}, which has {site.neurons}; "
                    "name the model it was made for"
                )
            for part, original in layer.original.items():
                if part not in part_names(site):
                    raise DeltaError(
                        f"{site.name}: the delta changes {part}, which it does not have; name the model it was made for"
                    )
                rows = vectors(site, part)
                now = rows[layer.neurons.to(rows.device)]
                if now.shape != original.shape or not _same(now.cpu(), original.cpu(), exactly=not site.quantised):
                    raise DeltaError(
                        f"{site.name}: the model's weights are not those this delta was made for "
                        f"(base {self.base or 'unknown'}); is another edit applied, or the base a different one? "
                        "Name the unedited model it was made for"
                    )


def _same(now: Tensor, original: Tensor, *, exactly: bool) -> bool:
    """Whether weights are the originals; de-quantised ones may differ a little from one device to another."""
    if exactly:
        return torch.equal(now, original.to(now.dtype))
    return bool((now.float() - original.float()).norm() <= SAME * original.float().norm())


def _merge(first: LayerDelta, second: LayerDelta) -> LayerDelta:
    neurons = torch.unique(torch.cat([first.neurons, second.neurons]))
    change, original = {}, {}
    for part in {**first.change, **second.change}:
        sources = [layer for layer in (first, second) if part in layer.change]
        if len(sources) == 1 and len(sources[0].neurons) != len(neurons):
            raise DeltaError(
                "deltas that change different parts of different neurons cannot be added; edit the same parts in both"
            )
        change[part] = torch.zeros(len(neurons), sources[0].change[part].shape[1])
        original[part] = torch.zeros_like(change[part], dtype=sources[0].original[part].dtype)
        for layer in reversed(sources):
            at = torch.searchsorted(neurons, layer.neurons)
            change[part][at] += layer.change[part]
            original[part][at] = layer.original[part]
    return LayerDelta(first.layer, neurons, change, original, first.expert)
