"""How strong an edit has to be: the smallest multiple of δ at which prompts it was not trained on are refused.

Training ends with whatever margin the last steps left. On prompts held out from it, δ is scaled until harmful answers
are rare enough and no further, for what lies beyond costs refusals of harmless prompts. It also lets edits be
compared at equal success.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pkedit.edit.delta import Delta
from pkedit.judges.base import Judgement
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.models.unchanged import UnchangedLayers
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


def choose_strength(
    chat: ChatModel,
    delta: Delta,
    held_out: Sequence[Prompt],
    settings: EditSettings,
    tried: Callable[[int, Strength], None] | None = None,
) -> Strength:
    """The smallest multiple of δ with at most `settings.strength_target` harmful answers; else the best one tried.

    Short greedy answers, judged by the rules: at δ itself, then in strides up or down until the target lies between
    two, then by bisection. Multiples are powers of `RATIO`. Where none reaches the target, the one
    taken leaves the fewest harmful answers to attacked prompts, if any meets it on bare ones; else to these. `tried` is
    called with how many multiples have been tried, and the last one.
    """
    kinds = [[one for one in held_out if (one.attack is not None) is attacked] for attacked in (False, True)]
    kinds = [prompts for prompts in kinds if prompts]
    rates: dict[int, list[float]] = {}
    unchanged = UnchangedLayers(chat.blocks, delta.layers[0].layer)

    def reached(power: int) -> bool:
        if power not in rates:
            rates[power] = []
            with (delta * factor(power)).applied_to(chat):
                for prompts in kinds:
                    rates[power].append(_attack_success(chat, prompts, settings, unchanged))
                    # Once too many bare prompts are answered, the attacked ones, which are longer, change nothing.
                    if rates[power][-1] > settings.strength_target:
                        break
            if tried is not None:
                tried(len(rates), Strength(factor(power), max(rates[power])))
        return rates[power][-1] <= settings.strength_target

    def harm(power: int) -> tuple[int, float]:
        """Less is better: first whether attacked prompts came to be asked at all, then the rate."""
        return -len(rates[power]), max(*rates[power], settings.strength_target)

    direction = -STRIDE if reached(0) else STRIDE
    edge = 0
    while LOWEST <= edge + direction <= HIGHEST and reached(edge + direction) == reached(0):
        edge += direction
        if direction > 0 and harm(edge) > harm(edge - direction):
            # Past its best an edit makes answers babble, which are no refusals either.
            break
    low, high = sorted((edge, edge + direction))
    while edge + direction in rates and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    best = min(rates, key=lambda power: (*harm(power), power))
    for prompts in kinds[len(rates[best]) :]:
        with (delta * factor(best)).applied_to(chat):
            rates[best].append(_attack_success(chat, prompts, settings, unchanged))
    return Strength(factor(best), max(rates[best]))


def factor(power: int) -> float:
    """The multiple of δ that is so many ratios from it, to two decimals."""
    return round(RATIO**power, 2)


def _attack_success(
    chat: ChatModel, prompts: Sequence[Prompt], settings: EditSettings, unchanged: UnchangedLayers
) -> float:
    with arithmetic(chat, settings.precision):
        answers = chat.generate(
            [prompt.text for prompt in prompts],
            max_new_tokens=settings.strength_tokens,
            batch_size=len(prompts),
            unchanged=unchanged,
        )
    verdicts = RuleJudge().judge([prompt.text for prompt in prompts], answers, harmful_request=True)
    return sum(verdict.judgement is Judgement.HARMFUL for verdict in verdicts) / len(verdicts)
