"""Which files each stage of a run leaves in the folder, and which stages rest on what it made."""

from collections.abc import Iterable

from pkedit.settings import LOCATED

# Of all arms together, made anew whenever one is added. No stage is charged for it.
ANSWERS = "responses.jsonl"
MEANS = "means.safetensors"
STAGE_FILES = {
    "sample": ("targets.jsonl",),
    "locate": ("region.json", MEANS),
    "explain": ("pathway.json", "words.json"),
}
ARM_FILES = {
    "edit": ("delta.safetensors",),
    "measure": ("responses.jsonl", "measured.json"),
    "capability": ("capability.json",),
    "win rate": ("win_rate.json",),
}
MEASURING = ("measure", "capability", "win rate")


def files_of(stage: str) -> tuple[str, ...]:
    """Paths in the run folder of what a stage leaves: `edit dinm` leaves `arms/dinm/delta.safetensors`."""
    what, arm = split(stage)
    own = ARM_FILES.get(what, ()) if arm else STAGE_FILES.get(what, ())
    return tuple(arm_path(arm, name) if arm else name for name in own)


def arm_path(arm: str, name: str) -> str:
    """The path of a file of one arm; PKE's delta is the run's own, at the top."""
    return name if (arm, name) == ("pke", "delta.safetensors") else f"arms/{arm}/{name}"


def split(stage: str) -> tuple[str, str]:
    """`win rate pke` into `win rate` and `pke`; a stage of all arms has none."""
    what, _, arm = stage.rpartition(" ")
    return (what, arm) if what else (stage, "")


def resting_on(stage: str, stages: Iterable[str]) -> list[str]:
    """This stage and those that have to be done again with it."""
    return [other for other in stages if other == stage or _rests(*split(other), *split(stage))]


def _rests(what: str, arm: str, below: str, of: str) -> bool:
    if below == "sample":
        return what != "load"
    if below == "locate":
        return what in ("causal", "explain") or arm in LOCATED
    if below == "edit":
        return arm == of or (of == "pke" and what == "explain")
    if below == "measure":
        # The others are compared with what the unedited model answered.
        return (what == "win rate" and of in ("vanilla", arm)) or (what == "measure" and of == "vanilla")
    return False
