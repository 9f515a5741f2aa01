"""Writes an edit as a PEFT adapter: a LoRA that is exactly the edit, for the base model as it is."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

from pkedit.edit.delta import Delta
from pkedit.errors import ExportError, first_line
from pkedit.export.card import Written, model_card
from pkedit.export.check import LogitCheck, Reference, check_logits, check_merged, prompt_ids, reference_logits
from pkedit.export.destination import check_free, new_folder, saving_weights
from pkedit.export.licence import licence_of
from pkedit.export.lora import LoraTargets, lora_targets
from pkedit.export.opened import Tell, load_base, open_edit
from pkedit.models.chat import ChatModel
from pkedit.models.experts import release_experts
from pkedit.observer import Observer, Silent

ADAPTER = "default"
OTHERWISE = "--as full and --as delta hold every edit"


def export_adapter(
    folder: str | Path,
    destination: str | Path,
    *,
    base: str | None = None,
    repository: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    tell: Tell | None = None,
    observer: Observer | None = None,
) -> Path:
    """Saves the edit of a run as a PEFT adapter with its model card.

    The base is loaded once, and nothing is written to it. The adapter of a quantised model acts beside its quantised
    weights, as the edit did when it was measured.

    Args:
        folder: a run folder with `run.json` and `delta.safetensors`.
        destination: absent or empty; it is left untouched when anything fails.
        base: other weights of the same model, which the adapter is to be for.
        repository: where it will be uploaded, for the card; the folder's name if absent.
        trust_remote_code: whether code that the model brings with it may run; what the run was told does not count.
        check: whether the adapter is loaded from its file and its logits compared with the edit's.
        tell: receives what has to be known, and what the check found.
        observer: is told how far it is.

    Returns:
        `destination`.

    Raises:
        RunFolderError: `folder` has no edit, or `destination` holds something.
        ModelLoadError: the base model cannot be loaded.
        DeltaError: the base model is not the one that the delta was made for, nor the one it was quantised from.
        ExportError: PEFT cannot hold such an edit, or the adapter is not the edit.
    """
    folder, destination, observer = Path(folder), Path(destination), observer or Silent()
    record, delta = open_edit(folder)
    check_free(destination)
    observer.stage("load")
    placed = load_base(record, delta, base, tell, trust_remote_code=trust_remote_code)
    chat, delta = placed.chat, placed.delta
    delta.check(chat)
    prompts, reference = [], None
    if check:
        observer.stage("reference")
        prompts = prompt_ids(chat.tokenizer, chat.name)
        reference = reference_logits(chat, delta, prompts, observer.step)
    observer.stage("save")
    with new_folder(destination) as complete:
        write_adapter(delta, chat, complete, base=placed.base.public.text)
        found = None
        if reference is not None:
            observer.stage("compare")
            found = _check(chat, delta, complete, prompts, reference, observer)
            if tell is not None:
                tell(found.sentence)
        place = repository or destination.name
        licence = licence_of(placed.base.model)
        written = Written("adapter", place, placed.base, licence, placed.onto, found, repository is not None)
        model_card(record, delta, written).save(complete / "README.md")
    return destination


def write_adapter(delta: Delta, chat: ChatModel, folder: Path, *, base: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`; the model keeps its weights.

    Args:
        delta: made for the weights of `chat`.
        chat: the base. Its routed experts have their own forward pass again afterwards.
        folder: where to.
        base: what the adapter's configuration is to call the base.

    Raises:
        ExportError: the edit is empty, or PEFT cannot put a LoRA on what it changes.
    """
    targets = lora_targets(delta, chat)
    if not targets.ranks:
        raise ExportError(f"the edit changes nothing, and an adapter of nothing cannot be written; {OTHERWISE}")
    # PEFT wraps the parameters of experts, which their own forward pass then reads.
    release_experts(chat.model)
    try:
        wrapped = get_peft_model(chat.model, lora_config(targets, chat))
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
        kind = chat.model.config.get_text_config().model_type
        raise ExportError(f"PEFT cannot put a LoRA on the MLPs of {kind}: {first_line(error)}; {OTHERWISE}") from error
    try:
        _fill(wrapped, targets)
        wrapped.peft_config[ADAPTER].base_model_name_or_path = base
        with saving_weights():
            wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    finally:
        wrapped.unload()


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter acting, as any user of PEFT loads it. The adapter stays on `model`."""
    return PeftModel.from_pretrained(model, str(folder), torch_device=str(next(model.parameters()).device)).eval()


def lora_config(targets: LoraTargets, chat: ChatModel) -> LoraConfig:
    """The configuration: each target with its own rank, and alpha as large as the rank, so that nothing is scaled."""
    ranks = targets.ranks
    largest = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != largest}
    modules = dict(chat.model.named_modules())
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=largest,
        lora_alpha=largest,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=any(type(modules[name]).__name__ == "Conv1D" for name in targets.modules),
        inference_mode=True,
    )


def _check(
    chat: ChatModel, delta: Delta, folder: Path, prompts: list[list[int]], reference: Reference, observer: Observer
) -> LogitCheck:
    """Loads the adapter onto the base and compares. The model is no longer the base afterwards.

    Raises:
        ExportError: the adapter is not the edit.
    """
    acting = load_adapter(chat.model, folder)
    found = check_logits(acting, prompts, reference, "adapter", observer.step)
    if not any(site.quantised for site in chat.sites):
        acting.merge_and_unload()
        check_merged(chat, delta)
    return found


def _fill(wrapped: Any, targets: LoraTargets) -> None:
    """Gives every LoRA layer its factors.

    Raises:
        ExportError: there is no layer for one of them, or one of another shape.
    """
    missing = set(targets.ranks)
    for path, layer in wrapped.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = path.replace(".base_layer", "")
        if isinstance(layer, ParamWrapper):
            name = f"{name}.{layer.parameter_name}"
        factors = targets.parameters.get(name) or targets.modules.get(name)
        if factors is None:
            raise ExportError(f"PEFT put a LoRA on {name}, which the edit does not change; {OTHERWISE}")
        pairs: Any = ((layer.lora_A[ADAPTER], factors.a), (layer.lora_B[ADAPTER], factors.b))
        for own, values in pairs:
            if own.weight.shape != values.shape:
                raise ExportError(
                    f"PEFT wants LoRA factors of {name} in the shape {tuple(own.weight.shape)}, the edit has them in "
                    f"{tuple(values.shape)}; {OTHERWISE}"
                )
            own.weight = nn.Parameter(values.to(torch.float32).contiguous(), requires_grad=False)
        missing.discard(name)
    if missing:
        raise ExportError(f"PEFT put no LoRA on {', '.join(sorted(missing))}; {OTHERWISE}")
