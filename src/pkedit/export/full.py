"""Writes the edited model as an ordinary model folder, which transformers and vLLM load without pkedit."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.edit.rebase import Rebased, rebase
from pkedit.errors import RunFolderError
from pkedit.export.card import model_card
from pkedit.models.configs import read_config
from pkedit.models.loading import DTYPES, load_model
from pkedit.run.record import RunRecord

WANTED = "its weights cannot carry the edit. Name the same model in full precision: --base MODEL"


def export_full(
    folder: str | Path,
    destination: str | Path,
    *,
    base: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Saves the base model of a run with the run's delta applied: weights, tokenizer with chat template, model card.

    The model is loaded in the dtype that the delta was made in, so that the saved weights are those that were measured;
    another base in the dtype that it is stored in.

    Args:
        folder: a run folder with `run.json` and `delta.safetensors`.
        destination: absent or empty; it is left untouched when anything fails.
        base: the same model in full precision, where the run's was quantised or a GGUF file.
        tell: receives what has to be known about an edit that goes onto another base.

    Returns:
        `destination`.

    Raises:
        RunFolderError: `folder` has no edit, its model is quantised and there is no `base`, or `destination` holds
            something.
        ModelLoadError: the base model cannot be loaded any more.
        DeltaError: the base model is not the one that the delta was made for, nor the one it was quantised from.
    """
    folder, destination = Path(folder), Path(destination)
    record = RunRecord.load(folder)
    path = folder / "delta.safetensors"
    if not path.is_file():
        raise RunFolderError(f"{folder}: no edit to export (no delta.safetensors); finish pkedit run --arms pke first")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RunFolderError(f"{destination} is not empty; give another --to")
    delta = Delta.load(path)
    if base is None and record.settings.quantisation is not None:
        raise RunFolderError(f"{record.settings.model} was edited in {record.settings.quantisation}; {WANTED}")
    chat = load_model(
        base or record.settings.model,
        device="cpu",
        dtype=_dtype(delta) if base is None else _stored_dtype(base, record.settings.trust_remote_code),
        chat_template=record.settings.chat_template,
        mlp_write=record.settings.mlp_write,
        trust_remote_code=record.settings.trust_remote_code,
    )
    onto = None
    if base is not None:
        rebased = rebase(delta, chat)
        delta, onto = rebased.delta, onto_sentence(record.settings.model, base, rebased)
        if tell is not None:
            tell(onto)
    elif any(site.quantised for site in chat.sites):
        raise RunFolderError(f"{record.settings.model} is quantised; {WANTED}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Moved into place when complete: a folder that lacks half of its shards would still look like a model.
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as partial:
            complete = Path(partial) / "model"
            with delta.applied_to(chat):
                chat.model.save_pretrained(complete)
            chat.tokenizer.save_pretrained(complete)
            (complete / "README.md").write_text(model_card(record, delta, base=base, onto=onto), encoding="utf-8")
            if destination.exists():
                destination.rmdir()
            shutil.move(complete, destination)
    except OSError as error:
        raise RunFolderError(f"cannot write {destination}: {error.strerror or error}") from None
    return destination


def onto_sentence(made_on: str, base: str, rebased: Rebased) -> str:
    """What has to be known about an edit that was made on other weights."""
    # Of paths on this machine only the last part is told.
    made_on, base = (Path(name).name if Path(name).exists() else name for name in (made_on, base))
    others = f" Where the edit was made there was {'; '.join(rebased.differences)}." if rebased.differences else ""
    return (
        f"The edit was made and measured on {made_on} and put onto the weights of {base}. In the edited neurons the "
        f"two differ by at most {100 * rebased.error:.1f} %; the exported model itself has not been measured.{others}"
    )


def _stored_dtype(name: str, trust_remote_code: bool) -> str:
    """The dtype that a checkpoint says it is stored in; float32 where it does not, or is none of ours."""
    stored = read_config(name, trust_remote_code=trust_remote_code).get_text_config().dtype
    return next((ours for ours, dtype in DTYPES.items() if dtype == stored), "float32")


def _dtype(delta: Delta) -> str:
    """The dtype of the originals, which is the model's when the delta was made."""
    for layer in delta.layers:
        for original in layer.original.values():
            return str(original.dtype).removeprefix("torch.")
    return "float32"
