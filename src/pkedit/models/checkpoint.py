"""What the files of a checkpoint hold, and whether its configuration tells the truth about them.

Only the headers are read, and modules stand on the meta device: a configuration that promises a terabyte, or a
thousand layers for a file of ten tensors, is refused before any memory is taken for it. Pickles are never opened.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils.hub import cached_file

from pkedit.errors import ModelLoadError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What the libraries raise over a configuration, a tokenizer or weights that make no sense.
DAMAGED = (
    *(OSError, ValueError, KeyError, IndexError, ImportError, RuntimeError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, SafetensorError, StrictDataclassError, struct.error),
)
# Counts for which modules are made one by one. The largest known models have 126 layers or 512 experts.
COUNTED = re.compile(r"(^|_)(layers?|experts|blocks|groups)$")
LAYERS = re.compile(r"^(num|n)_(hidden_|decoder_|encoder_)?layers?$")
MOST = 10_000
# Stored weights may lack what is tied, or made anew at load; more than this share is a lie.
MISSING = 0.25
# Tables that a model computes when it is made, such as rotations for every position.
TABLE_BYTES = 2 << 30
LARGEST_INDEX = 64 << 20


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a file, and how much room it takes there."""

    shape: tuple[int, ...]
    bytes: float


def meta_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The modules of a causal language model without their weights: parameters have shapes and take no memory.

    Raises:
        ModelLoadError: there is no causal language model of this kind, or the configuration contradicts itself.
    """
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            return model.eval()
    except DAMAGED as error:
        kind = getattr(config, "model_type", "unknown")
        raise ModelLoadError(
            f"no causal language model can be made of a {kind!r} configuration: {first_line(error)}; choose a chat "
            "model"
        ) from error


def stored_weights(name: str, source: str, config: Mapping[str, Any]) -> dict[str, StoredWeight]:
    """The tensors of all weight files, from their headers. Of a repository, the files are downloaded as loading would.

    Args:
        name: what the user asked for, for messages.
        source: a folder or a Hub id.
        config: the content of `config.json`.

    Raises:
        ModelLoadError: there are no safetensors files, or one is damaged or lies outside the model's folder.
    """
    found: dict[str, StoredWeight] = {}
    for path in _files(name, source, config):
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    shape = tuple(part.get_shape())
                    found[key] = StoredWeight(shape, _size(str(part.get_dtype())) * torch.Size(shape).numel())
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                f"cannot load {name!r}: {path.name} is no safetensors file that can be read ({first_line(error)}); "
                "download it anew"
            ) from None
    return found


def check_counts(name: str, config: Mapping[str, Any], stored: Mapping[str, StoredWeight] | None) -> None:
    """That a configuration does not ask for more modules than any model has, or than there are tensors for.

    Raises:
        ModelLoadError: it does.
    """
    for key, count in _counts(config):
        most = len(stored) if stored is not None and LAYERS.search(key) else MOST
        if count > most:
            why = f"its files hold {most} tensors" if most != MOST else "no model has so many"
            raise ModelLoadError(
                f"cannot load {name!r}: its configuration says {key} = {count}, but {why}; it is damaged "
                "or made to exhaust memory. Take another copy"
            )


def check_shapes(name: str, model: nn.Module, stored: Mapping[str, StoredWeight], *, quantised: bool) -> None:
    """That the model which the configuration describes is the one whose weights are stored.

    Args:
        name: what the user asked for.
        model: as `meta_model` makes it.
        stored: as `stored_weights` gives them.
        quantised: whether weights are stored packed, so that their shapes are others.

    Raises:
        ModelLoadError: a weight has another shape, or most of the weights are missing.
    """
    wanted = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for key, shape in wanted.items():
        there = stored.get(key) or stored.get(key.removeprefix(prefix))
        if there is not None and there.shape != shape and not quantised:
            raise ModelLoadError(
                f"cannot load {name!r}: its configuration makes {key} {_by(shape)}, but its file holds "
                f"{_by(there.shape)}; one of them is not this model's. Take another copy"
            )
    numbers = sum(torch.Size(shape).numel() for shape in wanted.values())
    # Nothing is packed below one bit a weight.
    there_are = sum(8 * one.bytes if quantised else torch.Size(one.shape).numel() for one in stored.values())
    if numbers * (1 - MISSING) > there_are:
        raise ModelLoadError(
            f"cannot load {name!r}: its configuration describes {numbers:,} weights, but its files hold "
            f"{there_are:,}; it is damaged or another model's. Take another copy"
        )
    tables = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if tables > max(TABLE_BYTES, sum(one.bytes for one in stored.values())):
        raise ModelLoadError(
            f"cannot load {name!r}: its configuration asks for tables of {tables / 2**30:,.0f} GiB beside the "
            "weights; it is damaged or made to exhaust memory. Take another copy"
        )


def _files(name: str, source: str, config: Mapping[str, Any]) -> list[Path]:
    """The safetensors files, in the order in which transformers looks for them."""
    named = config.get("transformers_weights")
    for wanted in (SINGLE, INDEX) if named is None else (str(named),):
        path = _file(name, source, wanted)
        if path is not None:
            return [path] if path.suffix != ".json" else [_required(name, source, one) for one in _shards(name, path)]
    folder = Path(source)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)) if folder.is_dir() else []
    kept = f"only as pickles ({', '.join(pickles[:3])}), which can run code when they are opened" if pickles else "not"
    raise ModelLoadError(
        f"cannot load {name!r}: its weights are there {kept}; pkedit reads safetensors. Take a copy that "
        "has them, or, if you trust where it is from, load and save it once with transformers (save_pretrained writes "
        "safetensors)"
    )


def _shards(name: str, index: Path) -> list[str]:
    """The file names of an index."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise ValueError(f"more than {LARGEST_INDEX >> 20} MiB")
        content = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(file) for file in content.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(
            f"cannot load {name!r}: {index.name} is no index of weights ({first_line(error)}); download it anew"
        ) from None


def _required(name: str, source: str, file: str) -> Path:
    path = _file(name, source, file)
    if path is None:
        raise ModelLoadError(f"cannot load {name!r}: {file} of its index is not there; download it anew")
    return path


def _file(name: str, source: str, file: str) -> Path | None:
    """A file of a folder or a repository; None where there is none."""
    if Path(file).name != file or file in ("", ".", "..") or "\\" in file or "\0" in file:
        raise ModelLoadError(
            f"cannot load {name!r}: its index names the file {file!r}, which is not in the model's own folder; no "
            "weights are read from anywhere else"
        )
    if Path(source).is_dir():
        path = Path(source) / file
        return path if path.is_file() else None
    found = cached_file(
        source,
        file,
        _raise_exceptions_for_gated_repo=True,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found)


def _counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every number of modules that a configuration names, in its parts too."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _counts(value)
        elif isinstance(value, int) and COUNTED.search(key):
            yield key, value


def _size(dtype: str) -> float:
    """Bytes of one number, from the name that safetensors gives its type: BF16, F8_E4M3, BOOL."""
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) / 8 if digits else 1


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
