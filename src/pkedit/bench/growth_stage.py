"""How the cost of locating and editing grows: with pairs, with tokens in a prompt, and of locating with layers."""

from collections.abc import Mapping
from functools import partial

from pkedit.bench.figures import StageFigures, make_curve
from pkedit.bench.material import Material, made_up_material, mean_prompt_tokens
from pkedit.bench.measuring import Work, alternately, seconds_of
from pkedit.bench.shallow import shallower
from pkedit.bench.workbench import Workbench
from pkedit.edit.editor import edit
from pkedit.locate.locating import locate
from pkedit.locate.region import Region
from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings, LocateSettings

# Of the edits: reading all prompts then costs about as much as the steps do.
STEPS = 4


def growth_stage(bench: Workbench) -> StageFigures:
    """Five curves, each measured at several sizes, ascending."""
    chat, sizes = bench.chat, bench.sizes
    most, count = max(sizes.growing_pairs), sizes.growing_pairs[0]
    all_of_it = bench.material.first(most, most)
    region = locate(chat, all_of_it.pairs, all_of_it.demonstrations, _locating(most)).region
    by_pairs = {size: all_of_it.first(size, size) for size in sizes.growing_pairs}
    by_tokens = {}
    for tokens in sizes.growing_tokens:
        material = made_up_material(chat, count, prompt_tokens=tokens)
        by_tokens[round(mean_prompt_tokens(chat, material))] = material
    depths = sorted({max(round(share * chat.layers), 1) for share in sizes.growing_shares})
    few = all_of_it.first(count, count)
    series: dict[tuple[str, str], Mapping[int, Work]] = {
        ("locate", "pairs"): {size: partial(_locate, chat, own) for size, own in by_pairs.items()},
        ("edit", "pairs"): {size: partial(_edit, chat, region, own) for size, own in by_pairs.items()},
        ("locate", "prompt tokens"): {size: partial(_locate, chat, own) for size, own in by_tokens.items()},
        ("edit", "prompt tokens"): {size: partial(_edit, chat, region, own) for size, own in by_tokens.items()},
        ("locate", "layers"): {depth: partial(_locate_in_first, chat, few, depth) for depth in depths},
    }
    works = {
        f"{name} {unit} {size}": work for (name, unit), own in series.items() for size, work in sorted(own.items())
    }
    runs = alternately(works, bench.repeats, bench.device, bench.step)
    curves = [
        make_curve(
            name,
            unit,
            tuple(sorted(own)),
            tuple(seconds_of(runs[f"{name} {unit} {size}"]) for size in sorted(own)),
        )
        for (name, unit), own in series.items()
        # A model of one layer has no growth with layers.
        if len(own) > 1
    ]
    return StageFigures(
        "growth",
        curves=tuple(curves),
        notes=(
            f"Growth: as many harmless answers as pairs, {count} of each where tokens or layers grow; edits of {STEPS} "
            "steps with the reading of their prompts.",
        ),
    )


def _locating(pairs: int) -> LocateSettings:
    return LocateSettings(pairs=pairs, demonstrations=pairs)


def _locate(chat: ChatModel, material: Material) -> None:
    locate(chat, material.pairs, material.demonstrations, _locating(len(material.pairs)))


def _locate_in_first(chat: ChatModel, material: Material, layers: int) -> None:
    settings = _locating(len(material.pairs)).model_copy(update={"first_layer": 0.0, "last_layer": 1.0})
    with shallower(chat, layers) as shallow:
        locate(shallow, material.pairs, material.demonstrations, settings)


def _edit(chat: ChatModel, region: Region, material: Material) -> None:
    count = len(material.pairs)
    settings = EditSettings(steps=STEPS, pairs_per_step=count, demonstrations_per_step=count, threshold=0.0)
    edit(chat, region, material.pairs, material.demonstrations, settings)
