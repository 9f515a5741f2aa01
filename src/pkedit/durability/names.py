"""The conditions by name: what is done, where it comes from, and which are measured unless others are named. No torch.

What each does is a function of the same name in `conditions.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """A condition in words. `costly`: left to `--all`, for it takes minutes an arm on two cores."""

    label: str
    source: str
    costly: bool = False


_PAPER = "arXiv {}".format
_TUNING = f"LoRA, {_PAPER('2106.09685')}; benign tuning undoes refusals, {_PAPER('2310.03693')}"
_MERGING = f"interpolated weights, {_PAPER('2109.01903')}"
_FORMATS = f"other chat formats undo refusals, {_PAPER('2406.12935')}"
_SAMPLING = f"sampling undoes refusals, {_PAPER('2310.06987')}"
_ROUNDING = f"round to nearest, as in {_PAPER('2210.17323')}"

AS_IS = "as-is"
NAMES: dict[str, Named] = {
    AS_IS: Named("as it is", "what every other row is to be read beside"),
    "reloaded": Named("saved and loaded", "what pkedit export --as full does"),
    "bf16": Named("cast to bfloat16", _PAPER("1905.12322")),
    "fp16": Named("cast to float16", _PAPER("1710.03740")),
    "8-bit": Named("8-bit weights", f"LLM.int8(), {_PAPER('2208.07339')}; {_ROUNDING}"),
    "4-bit": Named("4-bit weights", f"NF4, {_PAPER('2305.14314')}; {_ROUNDING}"),
    "temperature-0.7": Named("temperature 0.7", _SAMPLING),
    "temperature-1.0": Named("temperature 1.0", _SAMPLING),
    "system-prompt": Named("a system prompt", f"system prompts move refusals, {_PAPER('2401.18018')}"),
    "multi-turn": Named("harmless turns before", f"Crescendo begins so, {_PAPER('2404.01833')}"),
    "plain-format": Named("User: / Assistant:", _FORMATS),
    "llama2-format": Named("Llama 2's [INST]", f"{_PAPER('2307.09288')}; {_FORMATS}"),
    "alpaca-format": Named("Alpaca's ### Instruction", f"Taori et al. 2023; {_FORMATS}"),
    "paraphrased": Named("question reworded", f"by fixed rules, the past tense among them, {_PAPER('2407.11969')}"),
    "translated-frame": Named("foreign frame", f"the question stays English; after {_PAPER('2310.06474')}"),
    "late": Named("request comes late", f"behind a long preamble; after {_PAPER('2307.03172')}"),
    "merged-0.25": Named("merged, 0.25 of edit", _MERGING),
    "merged-0.5": Named("merged, 0.5 of edit", _MERGING),
    "merged-0.75": Named("merged, 0.75 of edit", _MERGING),
    "tuned-50": Named("tuned, 50 steps", _TUNING),
    "tuned-200": Named("tuned, 200 steps", _TUNING, costly=True),
    "tuned-1000": Named("tuned, 1,000 steps", _TUNING, costly=True),
    "suffix-attack": Named("suffix attack (GCG)", f"{_PAPER('2307.15043')}, small fixed budget", costly=True),
    "ablated": Named("refusal direction ablated", _PAPER("2406.11717")),
}
DEFAULT = tuple(name for name, one in NAMES.items() if not one.costly)
