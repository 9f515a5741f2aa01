"""`pkedit check`: what a model is, and whether and how fast a run of it would go here, before anything is loaded."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from pkedit.errors import ModelLoadError, PkeditError
from pkedit.models.checkpoint import meta_model
from pkedit.models.configs import download_folder, has_chat_template, quantisation_of, read_config
from pkedit.models.costs import Peaks
from pkedit.models.families import FAMILIES
from pkedit.models.family import MlpSite, family_of, find_sites
from pkedit.models.loading import conversion_folder
from pkedit.models.machine import Memory, free_disk, measure_peaks, memories
from pkedit.models.remote_endpoint import is_remote
from pkedit.models.shape import ModelShape, shape_of
from pkedit.run.asked import asked_prompts
from pkedit.run.estimates import ALL, HOST, Estimate, Place, advice, estimates, excess, placed, weight_bytes
from pkedit.settings import RunSettings

# The share of the cores that others may use before the measured rates are said to be theirs too.
BUSY = 0.5


@dataclass(frozen=True)
class MlpCount:
    """MLPs of one size: `neurons` in each, in each of `layers` layers; `experts` of them there, if they are routed."""

    neurons: int
    layers: int
    experts: int | None


@dataclass(frozen=True)
class ModelFacts:
    """What the configuration says. `family`: how the MLPs are found; absent where they are not, for `unsupported`."""

    name: str
    model_type: str
    family: str | None
    unsupported: str | None
    mlps: tuple[MlpCount, ...]
    neurons: int | None
    shape: ModelShape
    chat_template: bool | None
    quantisation: str | None


@dataclass(frozen=True)
class Disk:
    """What would be written: `purpose`, where, bytes, and bytes free there."""

    purpose: str
    path: str
    needed: int
    free: int


@dataclass(frozen=True)
class Check:
    """All that was found out. `problems` say what does not fit, `notes` what the estimates leave out."""

    model: ModelFacts
    place: Place
    rates: dict[str, Peaks]
    memories: tuple[Memory, ...]
    disks: tuple[Disk, ...]
    stages: tuple[Estimate, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether a run would go through."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Everything in JSON's types; bytes are whole numbers, seconds are rounded to tenths."""
        content = asdict(self)
        content["place"] |= {name: _name(content["place"][name]) for name in ("dtype", "mixed")}
        for stage in content["stages"]:
            stage["seconds"] = round(stage["seconds"], 1)
        return {"fits": self.fits, "seconds": round(sum(one.seconds for one in self.stages), 1), **content}


def check(settings: RunSettings, out: Path) -> Check:
    """Reads the model's configuration, measures this machine for a second, and estimates every stage of a run.

    Args:
        settings: of the run.
        out: where its folder would be, for the disk.

    Raises:
        PkeditError: there is no such model, device, dtype or file of prompts.
    """
    if is_remote(settings.model, settings.api_base):
        raise PkeditError(
            f"{settings.model} is behind an API and nothing of it runs on this machine; measure it with pkedit evaluate"
        )
    trusted = settings.trust_remote_code
    config = read_config(settings.model, trust_remote_code=trusted)
    model = meta_model(config, trust_remote_code=trusted)
    shape = shape_of(model)
    quantisation, bits = quantisation_of(settings.model, config)
    if settings.quantisation is not None:
        bits = float(settings.quantisation.removesuffix("bit"))
        quantisation = f"bitsandbytes, {bits:.0f} bits, at load"
    facts = _facts(settings, model, shape, quantisation)
    asked = asked_prompts(settings)
    converted = _converted(settings.model)
    host, *gpus = memories()
    place = placed(settings, host, gpus)
    rates = functools.cache(lambda dtype: measure_peaks(place.measured_on, dtype))
    found = estimates(shape, settings, asked, place, bits=bits, converted=converted, rates=rates)
    disks = _disks(settings, config, weight_bytes(shape, place.dtype, bits), shape, out)

    def again(other: RunSettings) -> tuple[list[Estimate], Place]:
        where = placed(other, host, gpus)
        return estimates(shape, other, asked_prompts(other), where, bits=bits, converted=converted), where

    problems = [*_missing(facts), *_too_large(found, place), *_too_full(disks)]
    advised = [advice(settings, again)] if excess(found, place.pools) > 1 else []
    if _too_full(disks):
        advised.append("For disk, free some, or put the cache (HF_HOME) or the run folder (--out) on a larger one.")
    return Check(
        model=facts,
        place=place,
        rates={_name(dtype): rates(dtype) for dtype in (place.dtype, place.mixed)},
        memories=(host, *gpus),
        disks=tuple(disks),
        stages=tuple(found),
        problems=tuple(problems),
        advice=tuple(advised),
        notes=tuple(_notes(settings, bits)),
    )


def _facts(settings: RunSettings, model: Any, shape: ModelShape, quantisation: str | None) -> ModelFacts:
    kind = str(model.config.model_type)
    family: str | None = "in the table" if kind in FAMILIES else "found by its structure"
    sites: tuple[MlpSite, ...] = ()
    unsupported = None
    try:
        sites = find_sites(model, family_of(model, settings.mlp_write))
    except ModelLoadError as error:
        family, unsupported = None, str(error)
    return ModelFacts(
        name=settings.model,
        model_type=kind,
        family=family,
        unsupported=unsupported,
        mlps=_mlps(sites),
        neurons=sum(site.neurons for site in sites) if sites else None,
        shape=shape,
        chat_template=True if settings.chat_template is not None else has_chat_template(settings.model),
        quantisation=quantisation,
    )


def _mlps(sites: Sequence[MlpSite]) -> tuple[MlpCount, ...]:
    """Sites of the same size together, dense ones first."""
    in_layer = Counter((site.layer, site.neurons, getattr(site, "expert", None) is not None) for site in sites)
    alike = Counter((routed, neurons, count) for (_, neurons, routed), count in in_layer.items())
    return tuple(
        MlpCount(neurons, layers, count if routed else None)
        for (routed, neurons, count), layers in sorted(alike.items())
    )


def _converted(name: str) -> bool:
    """Whether loading has to make the weights from a GGUF file."""
    return not conversion_folder().is_dir() if name == "smollm2" else Path(name).suffix == ".gguf"


def _disks(settings: RunSettings, config: Any, weights: float, shape: ModelShape, out: Path) -> list[Disk]:
    """What a run and an export after it would write."""
    found = []
    cache = download_folder(settings.model)
    if cache is not None:
        stored = getattr(config, "dtype", None)
        size = weights if stored is None else weight_bytes(shape, stored, quantisation_of(settings.model, config)[1])
        found.append(Disk("download", str(cache), round(size), free_disk(cache)))
    if settings.model == "smollm2" and _converted("smollm2"):
        folder = conversion_folder().parent
        found.append(Disk("conversion", str(folder), shape.parameters * 4, free_disk(folder)))
    found.append(Disk("export", str(out.absolute().parent), round(weights), free_disk(out)))
    return found


def _missing(facts: ModelFacts) -> list[str]:
    found = [] if facts.unsupported is None else [f"not supported: {facts.unsupported}"]
    if facts.chat_template is False:
        found.append("the tokenizer has no chat template; give one with --chat-template FILE.jinja")
    return found


def _too_large(found: Sequence[Estimate], place: Place) -> list[str]:
    """For each pool, the stages that need more than is free."""
    problems = []
    for pool, free in place.pools.items():
        stages = [one for one in found if one.needs.get(pool, 0) > free]
        if stages:
            most = max(one.needs[pool] for one in stages)
            names = "every stage" if len(stages) == len(found) else ", ".join(one.stage for one in stages)
            where = {HOST: "main memory", ALL: "the memory of all devices"}.get(pool, f"the memory of {pool}")
            problems.append(f"{where}: {gigabytes(most)} needed, {gigabytes(free)} free (by {names})")
    return problems


def _too_full(disks: Sequence[Disk]) -> list[str]:
    return [
        f"disk for the {one.purpose}: {gigabytes(one.needed)} needed, {gigabytes(one.free)} free at {one.path}"
        for one in disks
        if one.needed > one.free
    ]


def _notes(settings: RunSettings, bits: float | None) -> list[str]:
    """What the estimates do not contain."""
    notes = []
    others = [task for task in settings.evaluate.capability if task != "everyday"]
    if others:
        notes.append(f"not estimated: the tasks {', '.join(others)}, whose items are not known before they are loaded")
    judges = [judge for judge in settings.evaluate.judges if judge.startswith("guard:")]
    if judges:
        notes.append(f"not estimated: the guard models {', '.join(judges)}, which are loaded beside the model")
    busy, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if busy > BUSY * cores:
        notes.append(
            f"this machine is at work (load {busy:.1f} on {cores} cores): the rates are what that leaves, and a run is "
            "faster alone"
        )
    if bits is not None:
        notes.append("the weights are quantised: times are those of plain weights")
    return notes


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def gigabytes(count: float) -> str:
    """Bytes in GiB, or in MiB where that is less than a tenth."""
    return f"{count / 2**30:.1f} GiB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MiB"
