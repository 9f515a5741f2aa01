"""A step of an edit beside the same step through the whole model, with Adam over the same layers' whole matrices."""

from collections.abc import Sequence

from pkedit.bench.figures import Ratio, StageFigures, make_row
from pkedit.bench.locate_stage import pass_flops
from pkedit.bench.measuring import StepClock, alternately, now, time_ratios
from pkedit.bench.whole_matrices import Trained, matrices_of, train_whole_matrices
from pkedit.bench.workbench import Workbench
from pkedit.edit.editor import STEPS_KEPT, edit
from pkedit.edit.examples import Example, make_examples
from pkedit.locate.locating import locate
from pkedit.models.costs import forward_flops
from pkedit.settings import EditSettings, LocateSettings

# The most that a step should take of the whole-matrix step's time, by where the region lies.
MOST_TIME = {"default region": 0.9, "region in the upper half": 0.5}
MOST_STATE = 0.02
# Pairs, and harmless answers, that the region is located with: only where it lies matters here.
LOCATED = 4
# Of a number of δ: itself aside, its gradient and Adam's two, all in float32.
STATE_BYTES = 3 * 4


def edit_stage(bench: Workbench) -> StageFigures:
    """The default region, then one in the upper half of the layers."""
    upper = LocateSettings(first_layer=0.5, last_layer=1.0)
    found = [
        _one_region(bench, name, layers, place)
        for place, (name, layers) in enumerate(zip(MOST_TIME, (LocateSettings(), upper), strict=True))
    ]
    return StageFigures(
        "edit",
        rows=tuple(row for one in found for row in one.rows),
        ratios=tuple(ratio for one in found for ratio in one.ratios),
        notes=tuple(note for one in found for note in one.notes),
    )


def editing(bench: Workbench, *, steps: int) -> EditSettings:
    """The default settings, in which every step sees all examples and none is the last before its time."""
    pairs, kept = bench.sizes.edited
    return EditSettings(steps=steps, pairs_per_step=pairs, demonstrations_per_step=kept, threshold=0.0)


def _one_region(bench: Workbench, name: str, where: LocateSettings, place: int) -> StageFigures:
    chat, material = bench.chat, bench.material.first(*bench.sizes.edited)
    where = where.model_copy(update={"pairs": LOCATED, "demonstrations": LOCATED})
    region = locate(chat, bench.material.pairs, bench.material.demonstrations, where).region
    layers = sorted({neuron.layer for neuron in region.neurons})
    # One step beyond a whole round of what the editor does every few steps.
    settings = editing(bench, steps=STEPS_KEPT + 1)
    examples = make_examples(chat, material.pairs, material.demonstrations, settings)
    reading: list[float] = []
    parameters: list[int] = []
    trained: list[Trained] = []

    def edited() -> float:
        clock, started = StepClock(bench.device), now(bench.device)
        result = edit(chat, region, material.pairs, material.demonstrations, settings, progress=clock)
        parameters.append(result.delta.parameters)
        reading.append(now(bench.device) - started - clock.seconds * clock.steps)
        return clock.seconds

    def whole() -> float:
        clock = StepClock(bench.device)
        trained.append(train_whole_matrices(chat, layers, examples, settings, steps=2, progress=clock))
        return clock.seconds

    step, floor = f"edit step, {name}", f"whole-matrix step, {name}"
    done = bench.repeats * 2 * place
    runs = alternately(
        {step: edited, floor: whole},
        bench.repeats,
        bench.device,
        lambda one, total: bench.step(done + one, total * len(MOST_TIME)),
    )
    usual = EditSettings().steps
    with_reading = tuple(
        (run.seconds + once / usual) / other.seconds
        for run, once, other in zip(runs[step], reading, runs[floor], strict=True)
    )
    tokens = sum(len(example.dialogue) for example in examples)
    flops = (_step_flops(bench, layers[0], examples), _whole_flops(bench, layers, examples, settings.parts))
    return StageFigures(
        name,
        rows=tuple(
            make_row(
                title,
                runs[title],
                tokens=tokens,
                weight_bytes=bench.weight_bytes,
                flops=needed,
                peak_flops=bench.mixed_peaks.matmul_flops,
            )
            for title, needed in zip((step, floor), flops, strict=True)
        ),
        ratios=(
            Ratio(f"{step}: time ÷ whole-matrix step", time_ratios(runs[step], runs[floor]), MOST_TIME[name]),
            Ratio(f"{step}: the same with reading the prompts, over {usual} steps", with_reading),
            Ratio(
                f"{step}: bytes of gradients and Adam's state ÷ whole matrices'",
                tuple(own * STATE_BYTES / other.state_bytes for own, other in zip(parameters, trained, strict=True)),
                MOST_STATE,
            ),
        ),
        notes=(
            f"Edited, {name}: {len(region)} neurons in layers {layers[0]} to {layers[-1]} of {bench.shape.layers}; "
            f"{len(material.pairs)} pairs and {len(material.demonstrations)} harmless answers in a step, {tokens} "
            f"tokens; prompts are read once, in {min(reading):.1f} s.",
        ),
    )


def _step_flops(bench: Workbench, lowest: int, examples: Sequence[Example]) -> float:
    """Answers alone through the layers from `lowest` on, there and back; harmless logits twice, for the original's."""
    answers = sum(len(example.dialogue.answer) for example in examples)
    kept = sum(len(example.dialogue.answer) for example in examples if example.role == "harmless")
    context = sum(len(example.dialogue) for example in examples) / len(examples)
    layers = bench.shape.layers - lowest
    there = forward_flops(bench.shape, answers, context=context, layers=layers, logits=answers + kept / 2)
    return 2 * there


def _whole_flops(bench: Workbench, layers: Sequence[int], examples: Sequence[Example], parts: Sequence[str]) -> float:
    """All tokens through all layers, back to the lowest trained one, and the gradient of each trained weight."""
    dialogues = [example.dialogue for example in examples]
    there = pass_flops(bench.shape, dialogues) / 2
    trained = sum(weight.numel() for weight in matrices_of(bench.chat, layers, parts))
    back = there * (bench.shape.layers - layers[0]) / bench.shape.layers
    return there + back + 2.0 * sum(map(len, dialogues)) * trained
