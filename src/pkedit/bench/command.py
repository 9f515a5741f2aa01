"""`pkedit bench`: loads or makes the model, runs the stages and writes down what they found."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pkedit.bench.growth_chart import growth_chart
from pkedit.bench.material import builtin_material, made_up_material
from pkedit.bench.random_models import build_shape
from pkedit.bench.result import BenchResult
from pkedit.bench.stages import OF_A_MODEL, OF_A_SHAPE, STAGES
from pkedit.bench.workbench import FULL, QUICK, SHAPED, Sizes, Workbench
from pkedit.errors import PkeditError
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.observer import Observer, Silent
from pkedit.run.record import new_record, write_atomically
from pkedit.settings import RunSettings

CPU_FILE = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and how often. With `shape`, a random model of that shape instead of `model`."""

    model: str = "smollm2"
    shape: str | None = None
    layers: int | None = None
    prompt_tokens: int = 512
    stages: tuple[str, ...] = ()
    repeats: int | None = None
    quick: bool = False
    device: str | None = None
    dtype: str | None = None
    chat_template: str | None = None


def bench(
    options: BenchOptions,
    *,
    json_file: Path | None = None,
    growth_file: Path | None = None,
    observer: Observer | None = None,
    sizes: Sizes | None = None,
) -> BenchResult:
    """Measures, and writes the files that were asked for.

    Args:
        options: what and how often.
        json_file: where all figures go.
        growth_file: where the plot of the growth goes, an `.svg` file; the growth is then measured in any case.
        observer: is told of every stage.
        sizes: how much each stage is given; what suits the options if absent.

    Raises:
        PkeditError: a stage is unknown, options contradict each other, or the model cannot be had.
    """
    names = _stage_names(options, growth_file)
    observer = observer or Silent()
    sizes = sizes or _sizes(options)
    observer.stage("load")
    chat = _model(options)
    work = Workbench(
        chat,
        builtin_material()
        if options.shape is None
        else made_up_material(chat, _most(sizes), prompt_tokens=options.prompt_tokens),
        sizes,
        options.repeats or (1 if options.quick else 3),
        observer.step,
    )
    figures = []
    for name in names:
        observer.stage(name)
        figures.append(STAGES[name](work))
    record = new_record(RunSettings())
    result = BenchResult(
        model=chat.name if options.layers is None else f"{chat.name}, first {chat.layers} layers",
        reason=chat.reason,
        parameters=work.shape.parameters,
        layers=chat.layers,
        precision=str(work.mixed).removeprefix("torch."),
        matmul_flops=work.mixed_peaks.matmul_flops,
        bandwidth_bytes=work.mixed_peaks.bandwidth_bytes,
        repeats=work.repeats,
        sizes=asdict(sizes),
        hardware={**record.hardware, **_hardware(chat)},
        versions=record.versions,
        created=record.created,
        command=record.command,
        stages=tuple(figures),
    )
    if json_file is not None:
        write_atomically(json_file, json.dumps(result.as_json(), indent=1) + "\n")
    if growth_file is not None:
        write_atomically(growth_file, growth_chart([curve for stage in figures for curve in stage.curves]))
    return result


def _stage_names(options: BenchOptions, growth_file: Path | None) -> Sequence[str]:
    """The stages to run, in their order."""
    unknown = [name for name in options.stages if name not in STAGES]
    if unknown:
        raise PkeditError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    if options.layers is not None and options.shape is None:
        raise PkeditError("--layers belongs to --shape: a loaded model is measured whole")
    if growth_file is not None and growth_file.suffix != ".svg":
        raise PkeditError(f"{growth_file}: the plot is an SVG file; give a name that ends in .svg")
    chosen = set(options.stages or (OF_A_MODEL if options.shape is None else OF_A_SHAPE))
    if growth_file is not None:
        chosen.add("growth")
    return [name for name in STAGES if name in chosen]


def _sizes(options: BenchOptions) -> Sizes:
    if options.quick:
        return QUICK
    return FULL if options.shape is None else SHAPED


def _model(options: BenchOptions) -> ChatModel:
    if options.shape is not None:
        return build_shape(options.shape, layers=options.layers, device=options.device, dtype=options.dtype)
    return load_model(options.model, device=options.device, dtype=options.dtype, chat_template=options.chat_template)


def _most(sizes: Sizes) -> int:
    """Pairs, and harmless answers, that some stage needs."""
    return max(*sizes.located, *sizes.edited, *sizes.whole[:2], *sizes.growing_pairs, -(-sizes.answered[0] // 2))


def _hardware(chat: ChatModel) -> dict[str, str | int]:
    """The processor by its maker's name, the threads that torch uses, and the GPU if the model is on one."""
    found: dict[str, str | int] = {"threads": torch.get_num_threads()}
    if platform.system() == "Linux" and CPU_FILE.is_file():
        lines = CPU_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            found["processor"] = names[0]
    if chat.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(chat.device)
    return found
