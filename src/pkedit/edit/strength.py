"""How strong an edit has to be: the smallest multiple of δ at which prompts it was not trained on are refused.

Training ends with whatever margin the last steps left. On prompts held out from it, δ is scaled until harmful answers
are rare enough and no further, for what lies beyond costs refusals of harmless prompts. It also lets edits be
compared at equal success.
"""

import math
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
# Up to one stride beyond δ itself, nearly all answers have held together. Farther out they may begin as refusals and
# end as babble, of which so few tokens as a refusal takes show nothing.
HELD_TOGETHER = STRIDE
WHOLE_TOKENS = 32
# So many more incoherent answers than the original gives are no price of strength but damage.
BABBLE_LIMIT = 0.05


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
    """The smallest multiple of δ with at most `settings.strength_target` harmful answers.

    Short greedy answers, judged by the rules: at δ itself, then in strides up or down until the target lies between
    two, then by bisection. Multiples are powers of `RATIO`. Where none reaches the target, the best one tried leaves
    the fewest harmful answers to attacked prompts, if any meets it on bare ones; else to these. Taken is then the
    smallest that is no worse than that by more than one standard error, for beyond it an edit only costs (the rule of
    Breiman et al. 1984, Classification and Regression Trees, section 3.4.3). Where this lies more than a stride above δ
    itself, whole answers are looked at too, and the strength comes down to where hardly more of them are incoherent
    than the original's. `tried` is called with how many multiples have been tried, and the last one.
    """
    kinds = [[one for one in held_out if (one.attack is not None) is attacked] for attacked in (False, True)]
    kinds = [prompts for prompts in kinds if prompts]
    rates: dict[int, list[float]] = {}
    unchanged = UnchangedLayers(chat.blocks, delta.layers[0].layer)

    def ask(power: int, limit: float) -> None:
        """Once too many bare prompts are answered, the attacked ones, which are longer, change nothing."""
        new = power not in rates
        asked = rates.setdefault(power, [])
        if len(asked) < len(kinds) and not (asked and asked[-1] > limit):
            with (delta * factor(power)).applied_to(chat):
                for prompts in kinds[len(asked) :]:
                    asked.append(_attack_success(chat, prompts, settings, unchanged))
                    if asked[-1] > limit:
                        break
        if new and tried is not None:
            tried(len(rates), Strength(factor(power), max(asked)))

    def met(power: int, limit: float) -> bool:
        ask(power, limit)
        return max(rates[power]) <= limit

    def reached(power: int) -> bool:
        return met(power, settings.strength_target)

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
    if edge + direction in rates:
        _first(reached, *sorted((edge, edge + direction)))
    best = min(rates, key=lambda power: (*harm(power), power))
    ask(best, 1.0)
    if not reached(best):
        best = _smallest(met, best, _within_one_error(rates[best], kinds))
    if best > HELD_TOGETHER:
        limit = _babble(chat, kinds, settings, unchanged) + BABBLE_LIMIT

        def babbles(power: int) -> bool:
            with (delta * factor(power)).applied_to(chat):
                return _babble(chat, kinds, settings, unchanged) > limit

        if babbles(best):
            best = _first(babbles, HELD_TOGETHER, best) - 1
            ask(best, 1.0)
    return Strength(factor(best), max(rates[best]))


def _within_one_error(rates: Sequence[float], kinds: Sequence[Sequence[Prompt]]) -> float:
    """The worst of these rates and its standard error."""
    worst, count = max((rate, len(prompts)) for rate, prompts in zip(rates, kinds, strict=True))
    return worst + math.sqrt(worst * (1 - worst) / count)


def _smallest(met: Callable[[int, float], bool], best: int, limit: float) -> int:
    """The smallest power, downwards from `best` in strides and then by bisection, that meets the limit."""
    high, low = best, best - STRIDE
    while low >= LOWEST and met(low, limit):
        high, low = low, low - STRIDE
    return high if low < LOWEST else _first(lambda power: met(power, limit), low, high)


def _first(met: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest power above `low` that is met, by bisection; `high` is taken to be."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def factor(power: int) -> float:
    """The multiple of δ that is so many ratios from it, to two decimals."""
    return round(RATIO**power, 2)


def _attack_success(
    chat: ChatModel, prompts: Sequence[Prompt], settings: EditSettings, unchanged: UnchangedLayers
) -> float:
    return _share(Judgement.HARMFUL, chat, prompts, settings, unchanged, tokens=settings.strength_tokens)


def _babble(
    chat: ChatModel, kinds: Sequence[Sequence[Prompt]], settings: EditSettings, unchanged: UnchangedLayers
) -> float:
    """How many of all answers are incoherent; kinds differ in length, so each is a batch of its own."""
    incoherent = sum(
        len(prompts) * _share(Judgement.INCOHERENT, chat, prompts, settings, unchanged, tokens=WHOLE_TOKENS)
        for prompts in kinds
    )
    return incoherent / sum(map(len, kinds))


def _share(
    judgement: Judgement,
    chat: ChatModel,
    prompts: Sequence[Prompt],
    settings: EditSettings,
    unchanged: UnchangedLayers,
    *,
    tokens: int,
) -> float:
    """How many of the answers to these prompts are judged so."""
    texts = [prompt.text for prompt in prompts]
    with arithmetic(chat, settings.precision, cast_once=True):
        answers = chat.generate(texts, max_new_tokens=tokens, batch_size=len(texts), unchanged=unchanged)
    verdicts = RuleJudge().judge(texts, answers, harmful_request=True)
    return sum(verdict.judgement is judgement for verdict in verdicts) / len(verdicts)
