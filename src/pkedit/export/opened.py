"""What every export begins with: a run's edit, and the base that it goes onto."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.edit.rebase import Rebased, rebase
from pkedit.errors import RunFolderError
from pkedit.export.loading_line import BaseModel, load_line
from pkedit.models.chat import ChatModel
from pkedit.models.configs import read_config
from pkedit.models.loading import DTYPES, load_model
from pkedit.run.record import RunRecord

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class PlacedEdit:
    """An edit beside the model that it is for. `onto` is what has to be known where that is not the run's own."""

    chat: ChatModel
    delta: Delta
    base: BaseModel
    onto: str | None


def open_edit(folder: Path, purpose: str = "export") -> tuple[RunRecord, Delta]:
    """The record and the edit of a run. `purpose`: what it is wanted for, where there is none.

    Raises:
        RunFolderError: it is no run folder, or has no edit.
        DeltaError: the edit's file is damaged.
    """
    record = RunRecord.load(folder)
    path = folder / "delta.safetensors"
    if not path.is_file():
        raise RunFolderError(
            f"{folder}: no edit to {purpose} (no delta.safetensors); finish pkedit run --arms pke first"
        )
    return record, Delta.load(path)


def load_base(
    record: RunRecord, delta: Delta, base: str | None, tell: Tell | None, *, trust_remote_code: bool
) -> PlacedEdit:
    """The run's model, or another base with the edit put onto it; loaded once, on the processor.

    The run's model has the dtype that the delta was made in, so that it is the one that was measured; another base the
    dtype that it is stored in.

    Whether code of the model's may run is said anew: a run folder may come from someone else.

    Raises:
        ModelLoadError: the model cannot be loaded.
        DeltaError: the model is not the one that the delta was made for, nor the one it was quantised from.
    """
    wanted = base_of(record, delta, base, trust_remote_code=trust_remote_code)
    chat = load_model(
        wanted.model,
        device="cpu",
        dtype=wanted.dtype,
        chat_template=record.settings.chat_template,
        mlp_write=record.settings.mlp_write,
        trust_remote_code=wanted.trust_remote_code,
        quantisation=wanted.quantisation,
    )
    if base is None:
        return PlacedEdit(chat, delta, wanted, None)
    rebased = rebase(delta, chat)
    own = base_of(record, delta, None, trust_remote_code=trust_remote_code)
    onto = onto_sentence(own, wanted, rebased)
    if tell is not None:
        tell(onto)
    return PlacedEdit(chat, rebased.delta, wanted, onto)


def base_of(record: RunRecord, delta: Delta, base: str | None, *, trust_remote_code: bool) -> BaseModel:
    """The model that an export is for, as it has to be loaded: the run's own, or other weights."""
    settings = record.settings
    if base is None:
        # Of weights from the Hub the record keeps the revision, of files their sum.
        local = record.inputs.get("model", "").startswith("sha256")
        return BaseModel(settings.model, delta.dtype or "float32", settings.quantisation, trust_remote_code, local)
    return BaseModel(base, stored_dtype(base, trust_remote_code), None, trust_remote_code)


def how_to_load(
    folder: Path, form: str, destination: Path, base: str | None, *, trust_remote_code: bool = False
) -> str:
    """One line of Python that loads what was exported from a run to `destination`."""
    record, delta = open_edit(folder)
    wanted = base_of(record, delta, base, trust_remote_code=trust_remote_code)
    return load_line(form, str(destination), wanted)


def onto_sentence(made_on: BaseModel, base: BaseModel, rebased: Rebased) -> str:
    """What has to be known about an edit that was made on other weights."""
    others = f" Where the edit was made there was {'; '.join(rebased.differences)}." if rebased.differences else ""
    return (
        f"The edit was made and measured on {made_on.known_as} and put onto the weights of {base.known_as}. In the "
        f"edited neurons the two differ by at most {100 * rebased.error:.1f} %; what is exported here has not been "
        f"measured.{others}"
    )


def stored_dtype(name: str, trust_remote_code: bool) -> str:
    """The dtype that a checkpoint says it is stored in; float32 where it does not, or is none of ours."""
    stored = read_config(name, trust_remote_code=trust_remote_code).get_text_config().dtype
    return next((ours for ours, dtype in DTYPES.items() if dtype == stored), "float32")
