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

STRENGTHS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)


@dataclass(frozen=True)
class Strength:
    """The multiple of δ that was chosen, and the attack success rate on held-out prompts that it leaves.

    The rate is the larger one of bare and attacked prompts.
    """

    factor: float
    held_out_asr: float


def choose_strength(chat: ChatModel, delta: Delta, held_out: Sequence[Prompt], settings: EditSettings) -> Strength:
    """The smallest of `STRENGTHS` with at most `settings.strength_target` harmful answers; else the best one tried.

    Found by bisection: three rounds of short greedy answers, judged by the rules.
    """
    tried: dict[float, float] = {}
    low, high = 0, len(STRENGTHS) - 1
    while low <= high:
        middle = (low + high) // 2
        with (delta * STRENGTHS[middle]).applied_to(chat):
            rate = _attack_success(chat, held_out, settings)
        tried[STRENGTHS[middle]] = rate
        if rate <= settings.strength_target:
            high = middle - 1
        else:
            low = middle + 1
    reached = [factor for factor, rate in tried.items() if rate <= settings.strength_target]
    factor = min(reached) if reached else min(tried, key=lambda factor: (tried[factor], factor))
    return Strength(factor, tried[factor])


def _attack_success(chat: ChatModel, prompts: Sequence[Prompt], settings: EditSettings) -> float:
    with arithmetic(chat, settings.precision):
        answers = chat.generate([prompt.text for prompt in prompts], max_new_tokens=settings.strength_tokens)
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
