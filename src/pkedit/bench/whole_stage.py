"""Locating and an edit from end to end, beside what a user was promised: a minute, and the memory of one card."""

from pkedit.bench.figures import StageFigures, make_row
from pkedit.bench.measuring import alternately
from pkedit.bench.workbench import Workbench
from pkedit.edit.editor import edit
from pkedit.locate.locating import locate
from pkedit.settings import EditSettings, LocateSettings

# For a model of eight billion weights in bfloat16 on a card like the H200.
TARGET = "target 60 s, 24 GB on an H200-class card"


def whole_stage(bench: Workbench) -> StageFigures:
    """One run of both with the default settings of their steps; once, for it is long."""
    pairs, kept, steps = bench.sizes.whole
    material = bench.material.first(pairs, kept)
    locating = LocateSettings(pairs=pairs, demonstrations=min(kept, LocateSettings().demonstrations))
    editing = EditSettings(steps=steps, threshold=0.0)

    def both() -> None:
        region = locate(bench.chat, material.pairs, material.demonstrations, locating).region
        edit(bench.chat, region, material.pairs, material.demonstrations, editing)

    name = f"locate + edit of {steps} steps"
    runs = alternately({name: both}, 1, bench.device, bench.step)[name]
    prompts = material.prompts
    tokens = sum(len(bench.chat.prompt_ids(prompt.conversation)) for prompt in prompts)
    gib = runs[0].memory.highest / 2**30
    return StageFigures(
        "whole",
        rows=(make_row(name, runs, tokens=tokens, weight_bytes=bench.weight_bytes),),
        notes=(
            f"{name}: {runs[0].seconds:.1f} s, {gib:.2f} GiB ({TARGET}); {len(material.pairs)} pairs and "
            f"{len(material.demonstrations)} harmless answers, prompts of {tokens / len(prompts):.0f} tokens.",
        ),
    )
