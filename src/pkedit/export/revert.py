"""Takes an edit out of an edited model: the base comes back, bit for bit."""

from pathlib import Path

import torch

from pkedit.edit.base import SHAPES, base_facts
from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.errors import DeltaError, ModelLoadError
from pkedit.export.check import is_edited
from pkedit.export.destination import check_free, new_folder, saving_weights
from pkedit.export.full import SHARD_SIZE
from pkedit.export.opened import stored_dtype
from pkedit.export.tokenizer import write_tokenizer
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
from pkedit.models.loading import load_model
from pkedit.observer import Observer, Silent


def revert(
    edited: str | Path,
    delta_file: str | Path,
    destination: str | Path,
    *,
    mlp_write: str | None = None,
    trust_remote_code: bool = False,
    max_shard_size: str = SHARD_SIZE,
    observer: Observer | None = None,
) -> int:
    """Saves the model that a delta was made on: the originals that the delta keeps, in place of the edited vectors.

    Of two edits, one made on top of the other, the second comes out first. Their sum does not come out: it would have
    been rounded once, and the model was rounded twice.

    Args:
        edited: a full model, as `pkedit export --as full` or `merge_and_unload` wrote it.
        delta_file: the delta that it was edited with.
        destination: absent or empty; it is left untouched when anything fails.
        mlp_write: as in `load_model`.
        trust_remote_code: as in `load_model`.
        max_shard_size: a larger model is saved in several files.
        observer: is told how far it is.

    Returns:
        How many neurons were restored.

    Raises:
        RunFolderError: `destination` holds something.
        ModelLoadError: the edited model cannot be loaded, or is quantised.
        DeltaError: the delta is damaged, or the model is not base + delta.
    """
    delta, destination, observer = Delta.load(delta_file), Path(destination), observer or Silent()
    check_free(destination)
    observer.stage("load")
    chat = load_model(
        str(edited),
        device="cpu",
        dtype=stored_dtype(str(edited), trust_remote_code),
        mlp_write=mlp_write,
        trust_remote_code=trust_remote_code,
    )
    observer.stage("restore")
    restore(chat, delta)
    observer.stage("save")
    with new_folder(destination) as complete:
        with saving_weights():
            chat.model.save_pretrained(complete, max_shard_size=max_shard_size)
        write_tokenizer(chat, complete, template_given=False)
    return len(delta)


def restore(chat: ChatModel, delta: Delta) -> None:
    """Writes the originals back into a model that holds base + delta.

    Raises:
        ModelLoadError: its weights are quantised.
        DeltaError: it is another model, or its weights are not base + delta; it is unchanged then.
    """
    _check_shape(chat, delta)
    sites = [_site(chat, layer) for layer in delta.layers]
    for site, layer in zip(sites, delta.layers, strict=True):
        for part in layer.change:
            _check_edited(site, layer, part)
    delta.revert(chat)


def _check_shape(chat: ChatModel, delta: Delta) -> None:
    differences = [] if delta.made_for is None else list(delta.made_for.differences(base_facts(chat), *SHAPES))
    if differences:
        raise DeltaError(
            f"{chat.name} was not edited with this delta, which is for another model: "
            f"{delta.base or 'its base'} has {'; '.join(differences)}"
        )


def _site(chat: ChatModel, layer: LayerDelta) -> MlpSite:
    site = chat.places.get(layer.site)
    if site is None or (len(layer.neurons) and int(layer.neurons.max()) >= site.neurons):
        raise DeltaError(f"{chat.name} was not edited with this delta: it has no neurons where {layer.name} is changed")
    if site.quantised:
        raise ModelLoadError(
            f"{chat.name} is quantised; an edit was never written to it, so that none can be taken out"
        )
    return site


def _check_edited(site: MlpSite, layer: LayerDelta, part: str) -> None:
    if is_edited(site, layer, part):
        return
    now, original = vectors(site, part).detach()[layer.neurons], layer.original[part]
    if now.dtype == original.dtype and torch.equal(now, original):
        raise DeltaError(
            f"{site.name} holds the original weights: the model is not edited with this delta; name the edited one"
        )
    raise DeltaError(
        f"{site.name}: the weights are not base + delta, bit for bit, so that the base cannot be given back. Was the "
        "model edited twice (take the second delta out, then the first, not their sum), with another delta (--base "
        "makes one: export it with --as delta), converted or trained further?"
    )
