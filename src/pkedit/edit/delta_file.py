"""The file of a delta: its header, the tensors by MLP, and what must hold of them before any model is looked at.

It is a safetensors file, never a pickle. Its header has `format`, `schema_version`, `base`, `made_for` and `extra`;
its tensors are `PLACE.neurons`, `PLACE.PART.change` and `PLACE.PART.original`, with PLACE `layers.3` or
`layers.3.experts.5` and PART `write`, `read0`, `read1` …
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pkedit.errors import DeltaError
from pkedit.models.family import SiteId, site_order

FORMAT = "pkedit-delta"
SCHEMA_VERSION = 1
HEADER = {"format", "schema_version", "base", "made_for", "extra"}
_NUMBER = "(0|[1-9][0-9]{0,5})"
_NAME = re.compile(rf"layers\.{_NUMBER}(?:\.experts\.{_NUMBER})?\.(neurons|(?:write|read[0-9])\.(?:change|original))")
ANEW = "edit again, or take another copy of the file"


def read_file(path: str | Path) -> tuple[dict[str, str], list[tuple[SiteId, dict[str, Tensor]]]]:
    """The header, and the tensors of each MLP under what is left of their names.

    Raises:
        DeltaError: not a delta file, damaged, of another schema version, or with fields or tensors of no known name.
    """
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
            _check_header(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DeltaError(f"{path}: not a readable delta file ({error}); name the delta.safetensors of a run") from None
    grouped: dict[SiteId, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise DeltaError(f"{path}: a tensor is misnamed ({name[:80]!r}); {ANEW}")
        layer, expert, rest = found.groups()
        grouped.setdefault((int(layer), None if expert is None else int(expert)), {})[rest] = tensor
    return header, sorted(grouped.items(), key=lambda item: site_order(item[0]))


def check_layer(name: str, neurons: Tensor, change: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    """What must hold of the change of one MLP whatever the model is.

    Args:
        name: of the MLP, for the messages.
        neurons: [k], which must be ascending, each once.
        change: part → [k, hidden], finite, and finite when added to the originals in their dtype.
        original: part → [k, hidden], finite.

    Raises:
        DeltaError: it does not hold.
    """
    if neurons.dim() != 1 or neurons.dtype != torch.int64:
        raise DeltaError(f"{name}: the neurons are not a list of whole numbers; {ANEW}")
    if len(neurons) and int(neurons.min()) < 0:
        raise DeltaError(f"{name}: neuron {int(neurons.min())} cannot be; {ANEW}")
    if bool((neurons.diff() <= 0).any()):
        raise DeltaError(f"{name}: a neuron is named twice, or out of order; {ANEW}")
    if change.keys() != original.keys():
        odd = sorted(change.keys() ^ original.keys())
        raise DeltaError(f"{name}: a tensor of {' and '.join(odd)} is missing; {ANEW}")
    for part, values in change.items():
        before = original[part]
        if values.dim() != 2 or values.shape != before.shape or len(values) != len(neurons):
            raise DeltaError(
                f"{name}: {part} changes {_by(values)} numbers and replaces {_by(before)}, of {len(neurons)} neurons; "
                f"{ANEW}"
            )
        if not (values.dtype.is_floating_point and before.dtype.is_floating_point):
            raise DeltaError(f"{name}: {part} is {values.dtype} for {before.dtype}, which are no weights; {ANEW}")
        if not (torch.isfinite(values).all() and torch.isfinite(before).all()):
            raise DeltaError(f"{name}: the delta holds NaN or Inf in {part}; {ANEW}")
        if not torch.isfinite((before.float() + values.float()).to(before.dtype)).all():
            raise DeltaError(f"{name}: the edited weights of {part} would be Inf in {before.dtype}; {ANEW}")


def _check_header(path: str | Path, header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT or header.get("schema_version") != str(SCHEMA_VERSION):
        raise DeltaError(f"{path}: not a pkedit delta of schema version {SCHEMA_VERSION}; edit again with this pkedit")
    unknown = sorted(header.keys() - HEADER)
    if unknown:
        raise DeltaError(f"{path}: its header has the unknown field {unknown[0][:80]!r}; edit again with this pkedit")


def _by(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "one"
