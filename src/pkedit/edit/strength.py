"""How strong an edit has to be: the smallest multiple of δ at which prompts it was not trained on are refused.

Training ends with whatever margin the last steps left. On prompts held out from it, δ is scaled until harmful answers
are rare enough and no further, for what lies beyond costs refusals of harmless prompts. It also lets edits be
compared at equal success.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.edit.delta import Delta
from pkedit.judges.base import Judgement
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.prompts.types import Prompt
from pkedit.settings import EditSettings

# Multiples of δ that may be chosen lie this far apart: as much as one answer in a hundred, or less.
RATIO = 1.05
# The first look goes up and down in strides of so many ratios, and bisects what lies between two of them.
STRIDE = 4
# Beyond these, 0.46 and 3.2, another edit is needed rather than more or less of this one.
LOWEST, HIGHEST = -4 * STRIDE, 6 * STRIDE


@dataclass(frozen=True)
class Strength:
    """The multiple of δ that was chosen, and the attack success rate on held-out prompts that it leaves.

    The rate is the larger one of bare and attacked prompts.
    """

    factor: float
    held_out_asr: float


def choose_strength(chat: ChatModel, delta: Delta, held_out: Sequence[Prompt], settings: EditSettings) -> Strength:
    """The smallest multiple of δ with at most `settings.strength_target` harmful answers; else the best one tried.

    Short greedy answers, judged by the rules: at δ itself, then in strides up or down until the target lies between
    two, then by bisection. Multiples are powers of `RATIO`.
    """
    tried: dict[int, float] = {}

    def reached(power: int) -> bool:
        if power not in tried:
            with (delta * factor(power)).applied_to(chat):
                tried[power] = _attack_success(chat, held_out, settings)
        return tried[power] <= settings.strength_target

    direction = -STRIDE if reached(0) else STRIDE
    edge = 0
    while LOWEST <= edge + direction <= HIGHEST and reached(edge + direction) == reached(0):
        edge += direction
    low, high = sorted((edge, edge + direction))
    while high - low > 1 and low >= LOWEST and high <= HIGHEST:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    best = min(tried, key=lambda power: (max(tried[power], settings.strength_target), power))
    return Strength(factor(best), tried[best])


def factor(power: int) -> float:
    """The multiple of δ that is so many ratios from it, to two decimals."""
    return round(RATIO**power, 2)


def _attack_success(chat: ChatModel, prompts: Sequence[Prompt], settings: EditSettings) -> float:
    with arithmetic(chat, settings.precision):
        answers = chat.generate(
            [prompt.text for prompt in prompts], max_new_tokens=settings.strength_tokens, batch_size=len(prompts)
        )
    verdicts = RuleJudge().judge([prompt.text for prompt in prompts], answers, harmful_request=True)
    rates = []
    for attacked in (False, True):
        own = [
            verdict.judgement is Judgement.HARMFUL
            for verdict, prompt in zip(verdicts, prompts, strict=True)
            if (prompt.attack is not None) is attacked
        ]
        if own:
            rates.append(sum(own) / len(own))
    return max(rates)
