"""Writes safetensors files whole or not at all, and the same tensors always as the same bytes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors and what the header says of them.

    Raises:
        OSError: it cannot be written, a full disk included.
    """
    partial = path.with_name(f".{path.name}.partial")
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, partial, None if metadata is None else dict(metadata))
        with partial.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            file.seek(8)
            file.write(_in_order(header).ljust(length))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from None
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _in_order(header: dict[str, dict[str, str]]) -> bytes:
    """A header whose metadata is sorted; the library writes it in an order drawn by chance, in the same bytes."""
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
