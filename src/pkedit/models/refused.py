"""Models that an edit would damage, or could not reach, are refused by name: before loading, and before anything acts.

Nothing here changes a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pkedit.errors import ModelLoadError
from pkedit.models.experts import stored_in
from pkedit.models.family import MlpSite
from pkedit.models.quantised import OTHERWISE, bits_of

# Methods whose weights become plain numbers at load, and bitsandbytes, whose weights `quantised.py` reads.
READABLE = ("bitsandbytes", "mxfp4", "fp8", "gguf")
# Where a configuration may name a repository of compiled kernels.
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
OFFLOADED = (
    "pkedit needs all weights in memory. Load it with a smaller --dtype (bfloat16), in --load-in 8bit or 4bit, on "
    "--device auto with more or larger GPUs, or on --device cpu where the main memory holds it."
)


def check_config(name: str, config: Mapping[str, Any], *, trust_remote_code: bool, quantisation: str | None) -> None:
    """What the configuration alone rules out, before any weight is read or any code of the model's is run.

    Args:
        name: what the user asked for.
        config: the content of `config.json`.
        trust_remote_code: whether the model may bring its own code.
        quantisation: `4bit` or `8bit` where it is to be quantised at load.

    Raises:
        ModelLoadError: it needs code of its own, or its weights are in a format that cannot be read or chosen.
    """
    check_own_code(name, config, trust_remote_code=trust_remote_code)
    entry = config.get("quantization_config")
    if not entry:
        return
    if not isinstance(entry, Mapping):
        raise ModelLoadError(f"{name}: quantization_config is {type(entry).__name__}, not an object; take another copy")
    method = str(entry.get("quant_method", "bitsandbytes" if _bits_asked(entry) else "an unknown method"))
    if method not in READABLE:
        raise ModelLoadError(
            f"{name} is quantised by {method}, for which there is no de-quantiser here: its neurons cannot be read. "
            f"{OTHERWISE}"
        )
    if quantisation is not None:
        raise ModelLoadError(f"{name} is quantised already, by {method}; leave --load-in out")


def check_own_code(name: str, config: Mapping[str, Any], *, trust_remote_code: bool) -> None:
    """That the model needs no code of its own, or is allowed to run it.

    Raises:
        ModelLoadError: it needs some and is not allowed to; none of it has run.
    """
    own_code = config.get("auto_map") or {}
    if needs_own_code(config) and not trust_remote_code:
        said = own_code.values() if isinstance(own_code, Mapping) else [own_code]
        raise ModelLoadError(
            f"{name} brings its own Python code ({', '.join(sorted(map(str, said)))}), which would run on "
            "this machine; read it, and if you trust it, give --trust-remote-code"
        )
    for key in KERNEL_KEYS:
        if "/" in str(config.get(key) or "") and not trust_remote_code:
            raise ModelLoadError(
                f"{name} asks for compiled code of the repository {config[key]!r} ({key}), which would run on this "
                "machine; take it out of config.json, or if you trust it, give --trust-remote-code"
            )


def needs_own_code(config: Mapping[str, Any]) -> bool:
    """Whether the model comes as Python code: what transformers knows itself needs none, though many still bring it."""
    return bool(config.get("auto_map")) and config.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def check_model(name: str, model: nn.Module) -> None:
    """What is wrong with the model as a whole.

    Raises:
        ModelLoadError: it is wrapped by PEFT or torch.compile, its weights are not in memory, or not to be read.
    """
    for path, module in model.named_modules():
        origin = type(module).__module__
        if origin.split(".")[0] == "peft":
            raise ModelLoadError(
                f"{name} is wrapped by PEFT ({type(module).__name__}): an edit would be made beside the adapter. Merge "
                "it first, `model = model.merge_and_unload()`, and save or pass what that returns"
            )
        if origin.startswith("torch._dynamo") or getattr(module, "_compiled_call_impl", None) is not None:
            where = f"its part {path} is" if path and origin.startswith("torch._dynamo") else "it is"
            raise ModelLoadError(
                f"{name}: {where} compiled by torch.compile, which fixes what its forward pass does; pass the original "
                "model (the `_orig_mod` of a compiled one) and compile it after the edit"
            )
    away = [path for path, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise ModelLoadError(
            f"{name} does not fit: {len(away)} of its weights ({away[0]}, …) were left on disk or in main memory, to "
            f"be fetched in every pass. {OFFLOADED}"
        )


def check_sites(sites: Sequence[MlpSite], model: nn.Module) -> None:
    """What is wrong with single MLPs.

    Raises:
        ModelLoadError: an MLP's weights cannot be read, lie on other devices than the rest of their layer, or are also
            weights of something else, which an edit would change too.
    """
    for site in sites:
        for module in {id(part): part for part in (site.write, *(read.module for read in site.reads))}.values():
            if bits_of(module) is None and type(module.weight.data) is not Tensor:
                raise ModelLoadError(
                    f"{site.name}: its weights are kept as {type(module.weight.data).__name__}, for which there is no "
                    f"de-quantiser here. {OTHERWISE}"
                )
    for layer, block in {site.layer: site.block for site in sites}.items():
        places = {str(tensor.device) for tensor in (*block.parameters(), *block.buffers())}
        if len(places) > 1:
            raise ModelLoadError(
                f"layer {layer} lies on mixed devices ({' and '.join(sorted(places))}): its states would have to "
                "change place inside it. Put each decoder layer on one device, as --device auto does"
            )
    _check_shared(sites, model)


def _check_shared(sites: Sequence[MlpSite], model: nn.Module) -> None:
    """That every MLP weight is in memory once, under one name. Tied input and output embeddings are no MLP's."""
    owners = {
        id(parameter): site.name
        for site in sites
        for parameter in stored_in([site.write, *(read.module for read in site.reads)])
    }
    # Weights may share memory without being one parameter, so what counts is where they lie.
    spans = sorted(_spans(model), key=lambda span: span.start)
    furthest = None
    for span in spans:
        if furthest is not None and span.start < furthest.end:
            owner = owners.get(id(span.parameter)) or owners.get(id(furthest.parameter))
            if owner is not None:
                raise ModelLoadError(
                    f"{owner}: its weights are in use elsewhere ({furthest.name} and {span.name} are the same), so "
                    "that an edit of one would change the other; only MLPs with weights of their own can be edited"
                )
        if furthest is None or span.end > furthest.end:
            furthest = span


@dataclass(frozen=True, eq=False)
class _Span:
    """Where a parameter lies in memory, under one of its names."""

    start: int
    end: int
    name: str
    parameter: nn.Parameter


def _spans(model: nn.Module) -> Iterator[_Span]:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.numel():
            start = parameter.data_ptr()
            yield _Span(start, start + parameter.numel() * parameter.element_size(), name, parameter)


def _bits_asked(entry: Mapping[str, Any]) -> bool:
    """Whether an entry without a method is of bitsandbytes, as its first versions wrote it."""
    return bool(entry.get("load_in_4bit") or entry.get("load_in_8bit"))
