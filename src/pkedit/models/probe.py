"""Proves on the loaded model that its neurons are where the family says, before anything is located or edited."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from pkedit.errors import ModelLoadError
from pkedit.models.acting import acting
from pkedit.models.experts import own_experts
from pkedit.models.family import MlpSite
from pkedit.models.head import logits_from
from pkedit.models.hooks import added_outputs, calls_of, inputs_of, outputs_of, scaled_activations
from pkedit.models.quantised import shape_of_matrix
from pkedit.models.structure import body_of

TOKENS = 8
# How far two ways of computing the same may differ, as a share of what is compared: float32, and 16 bits.
CLOSE, COARSE = 1e-3, 0.03
# The same where inputs are quantised too, as with 8 bits.
QUANTISED = 0.1
# And over all logits, where a share of 0.2 was seen; where vectors are taken for others', it is 1 and more.
ROUNDED = 0.4

Again = Callable[[], Any]


@torch.no_grad()
def probe(model: Any, sites: Sequence[MlpSite]) -> None:
    """Proves the sites on the model: every one by its shapes, those of the first and the last layer by passes.

    Zeroing a neuron's activation and zeroing its write vector must give the same logits, and other logits than before:
    this fails where rows were taken for columns. Changing its read vector must change its activation and no other:
    this fails where the outputs of a fused projection are taken for others'. The first of two read matrices must be
    the gate, in which the activation is not linear. Experts that are called one by one, and the head behind the body,
    must give the model's own logits. The weights are put back bit for bit.

    Quantised weights cannot be written. There a change of vectors acts through hooks, with de-quantised copies of them,
    and the copies must give what the model's own projections give: this fails where rows were taken for columns.

    Raises:
        ModelLoadError: one of these does not hold; the message says which, and where.
    """
    proven: set[tuple[Any, ...]] = set()
    for site in sites:
        # Thousands of experts have the same shapes.
        shapes = _shapes(site)
        if shapes not in proven:
            _check_shapes(site)
        proven.add(shapes)
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(1, TOKENS + 1, device=embedding.device).remainder(len(embedding)).unsqueeze(0)
    exact = embedding.dtype == torch.float32 and not any(site.quantised for site in sites)
    tolerance = CLOSE if exact else COARSE
    with own_experts(model) as routed:
        expected = model(input_ids=ids, use_cache=False).logits.float() if routed else None
    edges = [site for site in sites if site.layer in (sites[0].layer, sites[-1].layer)]
    again: dict[int, Again] = {}
    reached: set[int] = set()
    states: list[Any] = []
    with ExitStack() as stack:
        stack.enter_context(calls_of([site.block for site in edges], again.__setitem__))
        stack.enter_context(inputs_of([site.write for site in edges], lambda place, _: reached.add(place)))
        stack.enter_context(outputs_of([body_of(model)], lambda _, output: states.append(output)))
        plain = model(input_ids=ids, use_cache=False).logits.float()
    if expected is not None and not _close(plain, expected, tolerance):
        raise ModelLoadError("experts that are called one by one do not give the model's own logits")
    if not _close(logits_from(model, states[0].last_hidden_state), plain, tolerance):
        raise ModelLoadError("the head does not give the model's own logits from its final states")
    for site, block in _chosen(edges, again, reached):
        for which in range(len(site.reads)):
            if site.quantised:
                _check_copy(site, which, block)
            _check_read(site, which, block, tolerance)
        if len(site.reads) == 2:
            _check_gate(site, block)
        _check_write(model, site, ids, plain)


def _chosen(edges: Sequence[MlpSite], again: dict[int, Again], reached: set[int]) -> list[tuple[MlpSite, Again]]:
    """Of each layer the MLP of all tokens, and the first expert that a token was sent to, with their layer's call."""
    chosen: dict[tuple[int, bool], tuple[MlpSite, Again]] = {}
    for place, site in enumerate(edges):
        if place not in again:
            raise ModelLoadError(f"{site.name}: the model did not call this layer")
        if place in reached:
            chosen.setdefault((site.layer, site.expert is None), (site, again[place]))
        elif site.expert is None:
            raise ModelLoadError(f"{site.name}: silencing its neurons did not change the logits: they are never called")
    return list(chosen.values())


def _shapes(site: MlpSite) -> tuple[Any, ...]:
    """What `_check_shapes` looks at."""
    modules = [read.module for read in site.reads]
    reads = [(modules.index(read.module), read.start, read.step, shape_of_matrix(read.module)) for read in site.reads]
    return site.neurons, site.hidden, site.transposed, *reads


def _check_shapes(site: MlpSite) -> None:
    """That every matrix has the neurons and the width of the write matrix, and every output belongs to one neuron."""
    if not site.reads:
        raise ModelLoadError(f"{site.name}: no read matrix")
    claimed: dict[int, set[int]] = {}
    for which, read in enumerate(site.reads):
        vectors = site.read_vectors(which)
        outputs = shape_of_matrix(read.module, transposed=site.transposed)[1 if site.transposed else 0]
        sharing = sum(other.module is read.module for other in site.reads)
        if vectors.shape != (site.neurons, site.hidden) or outputs != sharing * site.neurons:
            raise ModelLoadError(
                f"{site.name}: read weights of shape {tuple(vectors.shape)} out of {outputs} outputs, "
                f"expected {(site.neurons, site.hidden)}"
            )
        own = set(range(read.start, read.start + read.step * site.neurons, read.step))
        if claimed.setdefault(id(read.module), set()) & own:
            raise ModelLoadError(f"{site.name}: two read matrices share outputs of one projection")
        claimed[id(read.module)] |= own


def _check_write(model: Any, site: MlpSite, ids: Tensor, plain: Tensor) -> None:
    """That write vectors are what activations add, and that they reach the logits."""
    some = torch.arange(0, site.neurons, 2, device=site.device)
    with scaled_activations(site.write, some, 0.0):
        silenced = model(input_ids=ids, use_cache=False).logits.float()
    with _scaled(site, None, some, 0.0):
        ablated = model(input_ids=ids, use_cache=False).logits.float()
    change = (plain - silenced).abs().max()
    if not change > 0:
        raise ModelLoadError(f"{site.name}: silencing half of the neurons did not change the logits")
    if site.quantised:
        # Some formats round what a module reads, in steps of its largest activation, which silencing changes: single
        # logits differ then. Were the vectors others', the difference would be as large as the change.
        agree = bool((silenced - ablated).norm() <= ROUNDED * (plain - silenced).norm())
    else:
        agree = torch.allclose(silenced, ablated, atol=float(change) * 0.05)
    if not agree:
        raise ModelLoadError(f"{site.name}: zeroing write vectors differs from silencing their neurons")


def _check_read(site: MlpSite, which: int, again: Again, tolerance: float) -> None:
    """That a neuron's read vector decides its activation and no other's."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(site.neurons, generator=generator)[: max(site.neurons // 2, 1)]
    some = some.to(site.device)
    before = _activations(site, again)
    with _scaled(site, which, some, 0.0):
        after = _activations(site, again)
    moved = (after - before).abs().amax(0)
    others = torch.ones_like(moved, dtype=torch.bool)
    others[some] = False
    if not moved[some].max() > 0:
        raise ModelLoadError(f"{site.name}: changing vectors of read matrix {which} did not change their neurons")
    if others.any() and not moved[others].max() <= tolerance * moved[some].max():
        raise ModelLoadError(f"{site.name}: changing vectors of read matrix {which} changed other neurons")


def _check_gate(site: MlpSite, again: Again) -> None:
    """That the activation bends more in the first read matrix than in the second, which is its linear factor."""
    every = torch.arange(site.neurons, device=site.device)
    plain = _activations(site, again)
    bends = []
    for which in range(2):
        with _scaled(site, which, every, 0.0):
            zero = _activations(site, again)
        with _scaled(site, which, every, -1.0):
            opposite = _activations(site, again)
        bends.append(float((plain - 2 * zero + opposite).abs().mean()))
    if bends[0] < bends[1]:
        raise ModelLoadError(f"{site.name}: the first read matrix is not the gate")


def _activations(site: MlpSite, again: Again) -> Tensor:
    """The activations of one call of the site's layer, [tokens, neurons]."""
    seen: list[Tensor] = []
    with inputs_of([site.write], lambda _, states: seen.append(states)):
        again()
    return seen[0].flatten(0, -2).float()


def _check_copy(site: MlpSite, which: int, again: Again) -> None:
    """That de-quantised read vectors give the pre-activations that the quantised module gives."""
    module, every = site.reads[which].module, torch.arange(site.neurons, device=site.device)
    seen: list[tuple[Tensor, Tensor]] = []

    def receive(_: int, entering: Tensor, output: Tensor) -> Tensor:
        seen.append((entering, output))
        return output

    with added_outputs([module], receive):
        again()
    entering, output = (states.float().flatten(0, -2) for states in seen[0])
    at = site.read_outputs(which, every)
    expected = entering @ site.read_vectors(which).float().T
    bias = getattr(module, "bias", None)
    expected = expected if bias is None else expected + bias.float()[at]
    if not _close(expected, output[:, at], QUANTISED):
        raise ModelLoadError(f"{site.name}: the de-quantised read matrix {which} does not give the module's outputs")


@contextmanager
def _scaled(site: MlpSite, which: int | None, some: Tensor, factor: float) -> Generator[None]:
    """Some vectors times `factor` inside, those of read matrix `which` or the write vectors (None)."""
    vectors = site.write_vectors() if which is None else site.read_vectors(which)
    if site.quantised:
        with acting(site, which, some, (factor - 1.0) * vectors[some]):
            yield
        return
    kept = vectors[some].clone()
    vectors[some] = kept * factor
    try:
        yield
    finally:
        vectors[some] = kept


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors agree up to a share of the largest number; never where one is not finite."""
    # A model over several devices gives its logits where its input was, its head where the last layer is.
    other = other.to(one.device)
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
