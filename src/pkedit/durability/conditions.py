"""What each condition of `names.py` does: one function for each. It is given an arm and yields how to ask it; behind
its `with` block the model is again what it was, bit for bit."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from pkedit.durability import ablation, sampling, suffix, tuning, weights, wordings
from pkedit.durability.subject import Asked, Subject

CONDITIONS: dict[str, Callable[[Subject], AbstractContextManager[Asked]]] = {
    "as-is": weights.as_is,
    "reloaded": weights.reloaded,
    "bf16": weights.bfloat16,
    "fp16": weights.float16,
    "8-bit": weights.eight_bits,
    "4-bit": weights.four_bits,
    "temperature-0.7": sampling.sampled[0.7],
    "temperature-1.0": sampling.sampled[1.0],
    "system-prompt": wordings.system_prompt,
    "multi-turn": wordings.multi_turn,
    "plain-format": wordings.formatted["plain"],
    "llama2-format": wordings.formatted["llama2"],
    "alpaca-format": wordings.formatted["alpaca"],
    "paraphrased": wordings.paraphrased,
    "translated-frame": wordings.translated_frame,
    "late": wordings.late,
    "merged-0.25": weights.merged[0.25],
    "merged-0.5": weights.merged[0.5],
    "merged-0.75": weights.merged[0.75],
    "tuned-50": tuning.tuned[50],
    "tuned-200": tuning.tuned[200],
    "tuned-1000": tuning.tuned[1000],
    "suffix-attack": suffix.suffix_attack,
    "ablated": ablation.ablated,
}
