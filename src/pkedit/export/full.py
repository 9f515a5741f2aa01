"""Writes the edited model as an ordinary model folder, which transformers and vLLM load without pkedit."""

import gc
import weakref
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from pkedit.edit.delta import Delta
from pkedit.errors import ExportError, RunFolderError, first_line
from pkedit.export.card import Written, model_card
from pkedit.export.check import check_logits, check_weights, prompt_ids, reference_logits
from pkedit.export.destination import check_free, new_folder, saving_weights
from pkedit.export.licence import licence_of
from pkedit.export.opened import PlacedEdit, Tell, load_base, open_edit
from pkedit.export.tokenizer import write_tokenizer
from pkedit.models.experts import release_experts
from pkedit.models.families import Family
from pkedit.models.family import find_sites
from pkedit.observer import Observer, Silent

WANTED = (
    "its weights cannot carry the edit. Name the same model in full precision (--base MODEL), or write an adapter "
    "(--as adapter)"
)
# Small enough for the Hub and for any file system; a smaller model is one file.
SHARD_SIZE = "5GB"


def export_full(
    folder: str | Path,
    destination: str | Path,
    *,
    base: str | None = None,
    max_shard_size: str = SHARD_SIZE,
    repository: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    tell: Tell | None = None,
    observer: Observer | None = None,
) -> Path:
    """Saves the base model of a run with the run's delta applied: weights, tokenizer with chat template, model card.

    The model is loaded in the dtype that the delta was made in, so that the saved weights are those that were measured;
    another base in the dtype that it is stored in. The tokenizer's files are copied, not written anew.

    Args:
        folder: a run folder with `run.json` and `delta.safetensors`.
        destination: absent or empty; it is left untouched when anything fails.
        base: the same model in full precision, where the run's was quantised or a GGUF file.
        max_shard_size: a larger model is saved in several files.
        repository: where it will be uploaded, for the card; the folder's name if absent.
        trust_remote_code: whether code that the model brings with it may run; what the run was told does not count.
        check: whether the saved model is loaded by transformers alone, and its edited weights and its logits compared
            with the edit's.
        tell: receives what has to be known about an edit that goes onto another base, and what the check found.
        observer: is told how far it is.

    Returns:
        `destination`.

    Raises:
        RunFolderError: `folder` has no edit, its model is quantised and there is no `base`, or `destination` holds
            something.
        ModelLoadError: the base model cannot be loaded any more.
        DeltaError: the base model is not the one that the delta was made for, nor the one it was quantised from.
        ExportError: what was saved does not answer as the edited model does.
    """
    folder, destination, observer = Path(folder), Path(destination), observer or Silent()
    record, delta = open_edit(folder)
    check_free(destination)
    if base is None and record.settings.quantisation is not None:
        raise RunFolderError(f"{record.settings.model} was edited in {record.settings.quantisation}; {WANTED}")
    observer.stage("load")
    placed = load_base(record, delta, base, tell, trust_remote_code=trust_remote_code)
    if any(site.quantised for site in placed.chat.sites):
        raise RunFolderError(f"{record.settings.model} is quantised; {WANTED}")
    place = repository or destination.name
    licence, wanted, onto, delta = licence_of(placed.base.model), placed.base, placed.onto, placed.delta
    prompts, reference, family = [], None, placed.chat.family
    if check:
        observer.stage("reference")
        prompts = prompt_ids(placed.chat.tokenizer, placed.chat.name)
        reference = reference_logits(placed.chat, delta, prompts, observer.step)
    observer.stage("save")
    with new_folder(destination) as complete:
        _save(placed, complete, max_shard_size, template_given=record.settings.chat_template is not None)
        # Gone before the saved model is loaded, so that there is never more than one in memory.
        model = weakref.ref(placed.chat.model)
        del placed
        if model() is not None:
            gc.collect()
        found = None
        if reference is not None:
            observer.stage("compare")
            saved = _read_back(complete, prompts, trust_remote_code=wanted.trust_remote_code)
            _check_saved(saved, delta, family)
            found = check_logits(saved, prompts, reference, "full model", observer.step)
            if tell is not None:
                tell(found.sentence)
        card = model_card(record, delta, Written("full", place, wanted, licence, onto, found, repository is not None))
        card.save(complete / "README.md")
    return destination


def _save(placed: PlacedEdit, folder: Path, max_shard_size: str, *, template_given: bool) -> None:
    try:
        with placed.delta.applied_to(placed.chat), saving_weights():
            placed.chat.model.save_pretrained(folder, max_shard_size=max_shard_size)
    except ValueError as error:
        raise ExportError(f"transformers cannot save {placed.chat.name}: {first_line(error)}") from error
    write_tokenizer(placed.chat, folder, template_given=template_given)


def _check_saved(model: Any, delta: Delta, family: Family) -> None:
    """That its edited weights are the edit's, bit for bit; then it computes as any user's again.

    Raises:
        ExportError: they are not.
    """
    try:
        check_weights(find_sites(model, family), delta)
    finally:
        release_experts(model)


def _read_back(folder: Path, prompts: list[list[int]], *, trust_remote_code: bool) -> Any:
    """What was saved, loaded as any user does.

    Raises:
        ExportError: it cannot be loaded, or its tokenizer is another.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=trust_remote_code
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ExportError(f"what was saved cannot be loaded again: {first_line(error)}; nothing was written") from error
    if prompt_ids(tokenizer, str(folder)) != prompts:
        raise ExportError("the tokenizer that was saved reads prompts otherwise than the run's; nothing was written")
    return model.eval()
