"""How long the stages of a run take on this machine and what they need of its memory, and what to change if too much.

Memory is counted in pools: a device's own, or that of all devices together where a model is spread over them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pkedit.errors import ModelLoadError
from pkedit.models.costs import Peaks
from pkedit.models.loading import placement
from pkedit.models.machine import Memory
from pkedit.models.precision import arithmetic_dtype
from pkedit.models.shape import ModelShape
from pkedit.run.asked import AskedPrompts
from pkedit.run.stage_costs import stage_costs
from pkedit.settings import RunSettings

HOST, ALL = "main memory", "all devices"
# Python with torch, transformers and scikit-learn; with the libraries of CUDA; and what CUDA takes on the device.
PROCESS_BYTES, CUDA_PROCESS_BYTES, CONTEXT_BYTES = 0.65e9, 2.5e9, 0.6e9
# Memory taken over memory in use: allocators keep what was freed, in sizes that do not fit again.
FRAGMENTATION = {"cpu": 1.7, "cuda": 1.25}
# Of loading: modules imported and the probe; then bytes of weights per second, and of those made from a GGUF file.
LOAD_SECONDS, LOAD_RATE, GGUF_RATE = 6.0, 0.5e9, 0.025e9
# What advice goes down to. Smaller batches take longer, fewer pairs edit worse.
FEW_TOKENS, FEW_ANSWERS = 256, 16


@dataclass(frozen=True)
class Place:
    """Where a model would be and in which dtype, with the reason; `mixed` is the dtype that it is multiplied in where
    passes tolerate less precision. `pools`: free bytes of each memory that it would use."""

    device: str
    dtype: torch.dtype
    mixed: torch.dtype
    reason: str
    pools: Mapping[str, int]

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return "cuda" if self.device != "cpu" and any(pool != HOST for pool in self.pools) else "cpu"

    @property
    def measured_on(self) -> str:
        """The device whose rates count; of several, the first."""
        return next((pool for pool in self.pools if pool.startswith("cuda")), self.kind)


@dataclass(frozen=True)
class Estimate:
    """A stage by its name in the record: seconds, and bytes of each pool."""

    stage: str
    seconds: float
    needs: Mapping[str, int]


def placed(settings: RunSettings, host: Memory, gpus: Sequence[Memory]) -> Place:
    """What loading would choose on this machine, whose main memory is `host`.

    Raises:
        ModelLoadError: the settings ask for a device or dtype that there is not.
    """
    device, dtype, reason = placement(settings.device, settings.dtype)
    pools = {HOST: host.free}
    kind = "cpu"
    if device == "auto" and gpus:
        kind, pools = "cuda", {ALL: host.free + sum(gpu.free for gpu in gpus)}
    elif device.startswith("cuda"):
        place = device if ":" in device else f"{device}:0"
        chosen = next((gpu for gpu in gpus if gpu.place == place), None)
        if chosen is None:
            raise ModelLoadError(
                f"there is no device {device!r}; this machine has {len(gpus)} CUDA devices; choose another --device"
            )
        kind, pools[place] = "cuda", chosen.free
    return Place(device, dtype, arithmetic_dtype(kind, dtype, settings.edit.precision), reason, pools)


def weight_bytes(shape: ModelShape, dtype: torch.dtype, bits: float | None) -> float:
    """Bytes of the loaded weights; the layers' take `bits` each where they stay quantised."""
    if bits is None:
        return shape.parameters * dtype.itemsize
    return shape.layer_weights * bits / 8 + (shape.parameters - shape.layer_weights) * dtype.itemsize


def estimates(
    shape: ModelShape,
    settings: RunSettings,
    asked: AskedPrompts,
    place: Place,
    *,
    bits: float | None,
    converted: bool,
    rates: Callable[[torch.dtype], Peaks] | None = None,
) -> list[Estimate]:
    """All stages in their order, loading first.

    Args:
        shape: of the model.
        settings: of the run.
        asked: its prompts.
        place: where the model would be.
        bits: of a weight that stays quantised.
        converted: whether the weights have to be made from a GGUF file.
        rates: what the device reaches in a dtype; without, no stage takes any time.
    """
    weights = weight_bytes(shape, place.dtype, bits)
    rate = GGUF_RATE if converted else LOAD_RATE
    found = [Estimate("load", LOAD_SECONDS + weights / rate if rates else 0.0, _needs(place, weights, 0.0, load=True))]
    formats = {"weight": place.dtype.itemsize, "mixed": place.mixed.itemsize}
    for cost in stage_costs(shape, settings, asked, **formats, kind=place.kind):
        seconds = cost.seconds
        if rates is not None:
            seconds += cost.work.seconds(rates(place.mixed), cost.efficiency)
            seconds += cost.plain.seconds(rates(place.dtype), cost.efficiency)
        found.append(Estimate(cost.name, seconds, _needs(place, weights + cost.copies, cost.memory)))
    return found


def excess(found: list[Estimate], pools: Mapping[str, int]) -> float:
    """The most that a stage needs over what is free of a pool; above 1 it does not fit."""
    return max(bytes_ / max(pools[pool], 1) for one in found for pool, bytes_ in one.needs.items())


def advice(settings: RunSettings, again: Callable[[RunSettings], tuple[list[Estimate], Place]]) -> str:
    """Which changes together would make a run fit, in words; or that none do.

    Args:
        settings: with which it does not fit.
        again: estimates under other settings.
    """
    found, place = again(settings)
    least, taken = excess(found, place.pools), []
    for words, changed in _changes(settings, place):
        trial = changed(settings)
        found, place = again(trial)
        now = excess(found, place.pools)
        if now < 0.98 * least:
            settings, least = trial, now
            taken.append(words)
        if least <= 1:
            return f"It would fit with {' and '.join(taken)}."
    tried = f" Even with {' and '.join(taken)} it takes" if taken else "It takes"
    return f"{tried.strip()} {least:.1f} times the memory that is free: choose a smaller model or a larger machine."


def _changes(settings: RunSettings, place: Place) -> list[tuple[str, Callable[[RunSettings], RunSettings]]]:
    """What may be changed, the least harmful first, and how it is asked for."""
    changes: list[tuple[str, Callable[[RunSettings], RunSettings]]] = []
    if place.dtype == torch.float32:
        changes.append(("--dtype bfloat16", lambda old: old.model_copy(update={"dtype": "bfloat16"})))
    if place.kind == "cuda" and place.device != "auto":
        changes.append(("--device auto", lambda old: old.model_copy(update={"device": "auto"})))
    changes.append(
        (
            f"tokens_per_batch {FEW_TOKENS} of locate and edit in --settings",
            lambda old: old.model_copy(
                update={
                    "locate": old.locate.model_copy(update={"tokens_per_batch": FEW_TOKENS}),
                    "edit": old.edit.model_copy(update={"tokens_per_batch": FEW_TOKENS}),
                }
            ),
        )
    )
    changes.append(
        (
            f"batch_size {FEW_ANSWERS} of evaluate in --settings",
            lambda old: old.model_copy(
                update={"evaluate": old.evaluate.model_copy(update={"batch_size": FEW_ANSWERS})}
            ),
        )
    )
    fewer = {"pairs": max(settings.pairs // 2, 2), "demonstrations": max(settings.demonstrations // 2, 2)}
    words = " ".join(f"--{name} {count}" for name, count in fewer.items())
    changes.append((words, lambda old: old.model_copy(update=fewer)))
    return changes


def _needs(place: Place, weights: float, beside: float, *, load: bool = False) -> dict[str, int]:
    """Bytes of each pool for weights and what a stage holds beside them."""
    held = weights + beside * FRAGMENTATION[place.kind]
    if place.kind == "cpu":
        return {HOST: round(PROCESS_BYTES + held)}
    if ALL in place.pools:
        return {ALL: round(CUDA_PROCESS_BYTES + CONTEXT_BYTES + held)}
    # Loading puts the model together in main memory before it moves.
    own = next(pool for pool in place.pools if pool != HOST)
    return {HOST: round(CUDA_PROCESS_BYTES + (weights if load else 0.0)), own: round(CONTEXT_BYTES + held)}
