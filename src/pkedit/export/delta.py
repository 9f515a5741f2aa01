"""Writes an edit alone: `delta.safetensors` with a model card."""

from dataclasses import replace
from pathlib import Path

from pkedit.export.card import Written, model_card
from pkedit.export.destination import check_free, new_folder
from pkedit.export.licence import licence_of
from pkedit.export.opened import Tell, base_of, load_base, open_edit
from pkedit.observer import Observer, Silent

PAPER = "https://arxiv.org/abs/2410.03772"


def export_delta(
    folder: str | Path,
    destination: str | Path,
    *,
    base: str | None = None,
    repository: str | None = None,
    trust_remote_code: bool = False,
    tell: Tell | None = None,
    observer: Observer | None = None,
) -> Path:
    """Saves the edit of a run as a file, with its model card. No weights are read, but those of another base.

    Args:
        folder: a run folder with `run.json` and `delta.safetensors`.
        destination: absent or empty; it is left untouched when anything fails.
        base: other weights of the same model, which the edit is to be for; its originals become theirs.
        repository: where it will be uploaded, for the card; the folder's name if absent.
        trust_remote_code: whether code that the model brings with it may run; what the run was told does not count.
        tell: receives what has to be known about an edit that goes onto another base.
        observer: is told how far it is.

    Returns:
        `destination`.

    Raises:
        RunFolderError: `folder` has no edit, or `destination` holds something.
        ModelLoadError: the other base cannot be loaded.
        DeltaError: the other base is not the one that the edit's own was quantised from.
    """
    folder, destination, observer = Path(folder), Path(destination), observer or Silent()
    record, delta = open_edit(folder)
    check_free(destination)
    onto = None
    if base is not None:
        observer.stage("load")
        placed = load_base(record, delta, base, tell, trust_remote_code=trust_remote_code)
        delta, onto = placed.delta, placed.onto
    wanted = base_of(record, delta, base, trust_remote_code=trust_remote_code)
    # A path on this machine is nobody else's business.
    delta = replace(delta, base=wanted.known_as)
    observer.stage("save")
    with new_folder(destination) as complete:
        delta.save(
            complete / "delta.safetensors",
            method="Precision Knowledge Editing",
            paper=PAPER,
            pkedit=record.versions.get("pkedit", "unknown"),
            created=record.created,
            neurons=len(delta),
            parameters=delta.parameters,
        )
        place, licence = repository or destination.name, licence_of(wanted.model)
        written = Written("delta", place, wanted, licence, onto, on_hub=repository is not None)
        model_card(record, delta, written).save(complete / "README.md")
    return destination
