"""Writes the edited model as an ordinary model folder, which transformers and vLLM load without pkedit."""

import shutil
import tempfile
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.errors import RunFolderError
from pkedit.export.card import model_card
from pkedit.models.loading import load_model
from pkedit.run.record import RunRecord


def export_full(folder: str | Path, destination: str | Path) -> Path:
    """Saves the base model of a run with the run's delta applied: weights, tokenizer with chat template, model card.

    The model is loaded in the dtype that the delta was made in, so that the saved weights are those that were measured.

    Args:
        folder: a run folder with `run.json` and `delta.safetensors`.
        destination: absent or empty; it is left untouched when anything fails.

    Returns:
        `destination`.

    Raises:
        RunFolderError: `folder` has no edit, or `destination` holds something.
        ModelLoadError: the base model cannot be loaded any more.
        DeltaError: the base model is not the one that the delta was made for.
    """
    folder, destination = Path(folder), Path(destination)
    record = RunRecord.load(folder)
    path = folder / "delta.safetensors"
    if not path.is_file():
        raise RunFolderError(f"{folder}: no edit to export (no delta.safetensors); finish pkedit run --arms pke first")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RunFolderError(f"{destination} is not empty; give another --to")
    delta = Delta.load(path)
    chat = load_model(
        record.settings.model,
        device="cpu",
        dtype=_dtype(delta),
        chat_template=record.settings.chat_template,
        mlp_write=record.settings.mlp_write,
    )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Moved into place when complete: a folder that lacks half of its shards would still look like a model.
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as partial:
            complete = Path(partial) / "model"
            with delta.applied_to(chat):
                chat.model.save_pretrained(complete)
            chat.tokenizer.save_pretrained(complete)
            (complete / "README.md").write_text(model_card(record, delta), encoding="utf-8")
            if destination.exists():
                destination.rmdir()
            shutil.move(complete, destination)
    except OSError as error:
        raise RunFolderError(f"cannot write {destination}: {error.strerror or error}") from None
    return destination


def _dtype(delta: Delta) -> str:
    """The dtype of the originals, which is the model's when the delta was made."""
    for layer in delta.layers:
        for original in layer.original.values():
            return str(original.dtype).removeprefix("torch.")
    return "float32"
