"""Where an architecture that nobody listed keeps its MLPs, by the shapes and places of its weights.

An MLP's write matrix leads from the intermediate size back to the hidden one, and beside it stand the projections
that lead there. Attention looks alike; it is told apart by its query, key and value projections. What is found is a
guess until the probe has proved it.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from pkedit.errors import ModelLoadError
from pkedit.models.families import Experts, Family, Mlp
from pkedit.models.quantised import shape_of_matrix

WAY_OUT = (
    "Give the path of the MLP's write matrix, relative to a decoder layer, with --mlp-write PATH "
    "(for example --mlp-write mlp.down_proj), or add the architecture to pkedit/models/families.py."
)
# Projections of an attention block, by what models call them.
ATTENTION = re.compile(
    r"(^|_)(q|k|v|kv|qkv|query|key|value|c_attn|wqkv|w_pack|in_proj|query_key_value)(_proj|_a|_b|_proj_with_mqa)*$",
    re.IGNORECASE,
)
# Where two projections stand beside the write matrix, the gate is the one of this name, or the first.
GATE = re.compile("gate|w1$|wg$", re.IGNORECASE)
NORM = re.compile("norm|ln_f", re.IGNORECASE)


def body_of(model: Any) -> Any:
    """The model without its head: what gives `last_hidden_state` from token ids."""
    body = model.get_decoder()
    if body is not model:
        return body
    # Llama 4's text model names a body that only the whole model has.
    embedding = model.get_input_embeddings()
    return next(child for child in model.children() if any(module is embedding for module in child.modules()))


def children_of(body: nn.Module, blocks: str) -> list[nn.Module]:
    """The modules of the list at this path.

    Raises:
        ModelLoadError: there is none.
    """
    try:
        return list(body.get_submodule(blocks).children())
    except AttributeError as error:
        raise ModelLoadError(f"the decoder layers are not where the model's family says: {error}. {WAY_OUT}") from None


def family_by_structure(model: Any, mlp_write: str | None = None) -> Family:
    """The layout of a model that the table does not know, or of any model whose write matrix is given.

    Raises:
        ModelLoadError: nothing, or more than one thing, looks like decoder layers or their MLPs.
    """
    model_type = getattr(model.config, "model_type", "unknown")
    body = body_of(model)
    lists = {name: len(child) for name, child in body.named_children() if isinstance(child, nn.ModuleList)}
    if not lists:
        raise ModelLoadError(
            f"the architecture {model_type!r} has no list of decoder layers; choose a decoder-only model"
        )
    blocks = max(lists, key=lambda name: lists[name])
    names = [name for name, _ in body.named_children()]
    norm = next((name for name in names[names.index(blocks) + 1 :] if NORM.search(name)), None)
    hidden = model.get_input_embeddings().embedding_dim
    hidden = getattr(model.config.get_text_config(), "hidden_size", hidden)
    mlps: dict[Mlp, None] = {}
    experts: dict[Experts, None] = {}
    for layer, block in enumerate(children_of(body, blocks)):
        routed = list(_experts(block))
        if mlp_write is None:
            found = list(_mlps(block, hidden))
        else:
            found = [_beside(block, mlp_write, hidden, f"the architecture {model_type!r}, layer {layer}")]
        if len(found) > 1 or not (found or routed):
            seen = ", ".join(mlp.write for mlp in found) or "nothing"
            raise ModelLoadError(
                f"the architecture {model_type!r} is not known, and in its layer {layer} {seen} looks like the MLP's "
                f"write matrix. {WAY_OUT}"
            )
        mlps |= dict.fromkeys(found)
        experts |= dict.fromkeys(routed)
    return Family(tuple(mlps), tuple(experts), blocks, norm)


def _mlps(block: nn.Module, hidden: int) -> Iterator[Mlp]:
    """Everything in a layer that has the shapes of an MLP and does not stand beside queries, keys and values."""
    for path, module in block.named_modules():
        size = _size(module)
        if size is None or size[1] != hidden:
            continue
        siblings = block.get_submodule(path.rpartition(".")[0])
        if any(ATTENTION.search(name) for name, _ in siblings.named_children()):
            continue
        mlp = _with_reads(block, path, hidden)
        if mlp is not None:
            yield mlp


def _beside(block: nn.Module, path: str, hidden: int, what: str) -> Mlp:
    """The MLP whose write matrix is at `path`."""
    try:
        size = _size(block.get_submodule(path))
    except AttributeError as error:
        raise ModelLoadError(f"{what}: no module at {path!r} ({error}); check --mlp-write") from None
    if size is None or size[1] != hidden:
        raise ModelLoadError(
            f"{what}: {path!r} is no matrix that leads to the hidden size, {hidden}; name the one that does"
        )
    mlp = _with_reads(block, path, hidden)
    if mlp is None:
        raise ModelLoadError(f"{what}: no projection from {hidden} to {size[0]} stands beside {path!r}")
    return mlp


def _with_reads(block: nn.Module, path: str, hidden: int) -> Mlp | None:
    """The MLP with its reads, or None where no projections of the right sizes stand beside the write matrix."""
    parent, _, name = path.rpartition(".")
    write = block.get_submodule(path)
    neurons = _sizes(write)[0]
    prefix = f"{parent}." if parent else ""
    sizes = {
        f"{prefix}{sibling}": _size(module)
        for sibling, module in block.get_submodule(parent).named_children()
        if sibling != name and type(module) is type(write)
    }
    transposed = type(write).__name__ == "Conv1D"
    fused = [sibling for sibling, size in sizes.items() if size == (hidden, 2 * neurons)]
    reads = [sibling for sibling, size in sizes.items() if size == (hidden, neurons)]
    if len(fused) == 1 and not reads:
        return Mlp(path, tuple(fused), fused=True, transposed=transposed)
    if len(reads) in (1, 2) and not fused:
        reads.sort(key=lambda sibling: not GATE.search(sibling))
        return Mlp(path, tuple(reads), transposed=transposed)
    return None


def _experts(block: nn.Module) -> Iterator[Experts]:
    """Modules that hold the weights of many experts in one parameter each, as transformers has them."""
    for path, module in block.named_modules():
        weights = [getattr(module, name, None) for name in ("gate_up_proj", "down_proj")]
        if all(isinstance(weight, nn.Parameter) and weight.dim() == 3 for weight in weights):
            transposed = bool(getattr(module, "is_transposed", False))
            yield Experts(path, transposed=transposed, interleaved=not getattr(module, "is_concatenated", True))


def _size(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a module that is a matrix, None for others."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or isinstance(module, nn.Embedding):
        return None
    return _sizes(module)


def _sizes(module: Any) -> tuple[int, int]:
    rows, columns = shape_of_matrix(module)
    return (rows, columns) if type(module).__name__ == "Conv1D" else (columns, rows)
