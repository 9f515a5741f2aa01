"""What remote models may cost at most, estimated before anything is sent.

An upper bound: every answer as long as it may be, nothing in the cache, and for a model without a known price that of
the dearest one in the table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkedit.errors import RunFolderError
from pkedit.evaluate.pairwise import PROMPT
from pkedit.judges.labelled import LabelledAnswer
from pkedit.judges.remote import RUBRIC, VERDICT_TOKENS
from pkedit.models.remote_endpoint import endpoint_of, is_remote
from pkedit.models.remote_usage import LIST_PRICES, Price, list_price
from pkedit.prompts import load_safeedit
from pkedit.run.asked import CHARACTERS_PER_TOKEN, asked_prompts, mean
from pkedit.run.measuring import VERDICT_TOKENS as COMPARISON_TOKENS
from pkedit.run.record import RunRecord
from pkedit.run.safeedit.case import case_suite
from pkedit.run.safeedit.folder import CASES
from pkedit.run.safeedit.protocol import draw, source_of
from pkedit.run.safeedit.settings import SafeEditSettings
from pkedit.settings import RunSettings

# Dollars above which somebody has to agree: several times what a run with the default prompts costs.
ASKED_ABOVE = 5.0
DEAREST = max(LIST_PRICES.values(), key=lambda price: price.prompt)


@dataclass(frozen=True)
class Spending:
    """What one remote model is asked. Tokens are estimates of the most; `known`: whether its own price is."""

    model: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    price: Price
    known: bool

    @property
    def dollars(self) -> float:
        """The most that it may cost."""
        return self.price.of(self.prompt_tokens, self.answer_tokens)

    def words(self) -> str:
        """One model's part of the bill."""
        at = "at list price" if self.known else "its price is not known, so at the dearest one that is"
        return f"{self.model} is asked {self.requests:,} times, at most ${self.dollars:.2f} ({at})"


def asked_of(model: str, api_base: str | None, requests: int, prompt: float, answer: int) -> list[Spending]:
    """What so many requests cost, of `prompt` tokens each and answers of `answer` at most; nothing on a server nearby.

    Raises:
        RemoteModelError: the model and the address name no endpoint.
    """
    endpoint = endpoint_of(model, api_base)
    if endpoint.is_local or requests == 0:
        return []
    price = list_price(endpoint)
    return [Spending(model, requests, round(requests * prompt), requests * answer, price or DEAREST, price is not None)]


def judges_spending(
    judges: Iterable[str], api_base: str | None, answers: int, prompt: float, answer: float
) -> list[Spending]:
    """What the remote ones among these judges cost, for so many answers with prompts of so many tokens."""
    rubric = len(RUBRIC) / CHARACTERS_PER_TOKEN
    names = [name.removeprefix("remote:") for name in judges if name.startswith("remote:")]
    return [
        one for name in names for one in asked_of(name, api_base, answers, rubric + prompt + answer, VERDICT_TOKENS)
    ]


def run_spending(settings: RunSettings, out: Path) -> list[Spending]:
    """What a run or an evaluation with these settings still costs, behind the stages that are finished in `out`.

    Raises:
        PkeditError: a file of prompts cannot be read, or a remote model has no endpoint.
    """
    remote = is_remote(settings.model, settings.api_base)
    judged_remotely = any(name.startswith("remote:") for name in settings.evaluate.judges)
    if not remote and not judged_remotely and settings.evaluate.win_rate_judge is None:
        return []
    finished = _finished(out)
    arms = ("vanilla",) if remote else tuple({"vanilla", *settings.arms})
    waiting = sum(f"measure {arm}" not in finished for arm in arms)
    compared = sum(f"win rate {arm}" not in finished for arm in arms if arm != "vanilla")
    asked, limit = asked_prompts(settings), settings.evaluate.max_new_tokens
    prompts, prompt = len(asked.suite), mean(asked.suite)
    found: list[Spending] = []
    if remote:
        found += asked_of(settings.model, settings.api_base, waiting * prompts, prompt, limit)
    found += judges_spending(settings.evaluate.judges, settings.judge_api_base, waiting * prompts, prompt, limit)
    if settings.evaluate.win_rate_judge is not None:
        tokens = len(PROMPT) / CHARACTERS_PER_TOKEN + mean(asked.harmless) + 2 * limit
        requests = 2 * compared * len(asked.harmless)
        found += asked_of(
            settings.evaluate.win_rate_judge, settings.judge_api_base, requests, tokens, COMPARISON_TOKENS
        )
    return found


def labelled_spending(
    rows: Sequence[LabelledAnswer], judges: Iterable[str], api_base: str | None, *, passes: int
) -> list[Spending]:
    """What the remote ones among these judges cost for labelled answers, each of which they read `passes` times."""
    prompt, answer = (
        mean([len(text) / CHARACTERS_PER_TOKEN for text in texts])
        for texts in ([row.question for row in rows], [row.answer for row in rows])
    )
    return judges_spending(judges, api_base, passes * len(rows), prompt, answer)


def safeedit_spending(settings: SafeEditSettings, out: Path) -> list[Spending]:
    """What remote judges still cost in a run of SafeEdit's protocol, behind the cases that are finished in `out`.

    Raises:
        PkeditError: the file of cases cannot be read, or a judge's name says no endpoint.
    """
    if not any(name.startswith("remote:") for name in settings.judges):
        return []
    cases = draw(load_safeedit(source_of(settings.file)), settings)
    asked = [prompt.text for case in cases for _, prompt in case_suite(case).prompts]
    path = out / CASES
    finished = path.read_bytes().count(b"\n") if path.is_file() else 0
    arms = 2 if settings.vanilla and settings.method != "vanilla" else 1
    answers = arms * len(asked) * max(len(cases) - finished, 0) // max(len(cases), 1)
    prompt = mean([len(text) / CHARACTERS_PER_TOKEN for text in asked])
    return judges_spending(settings.judges, settings.judge_api_base, answers, prompt, settings.max_new_tokens)


def too_dear(found: Sequence[Spending]) -> str | None:
    """What would be spent, in words, where it is more than `ASKED_ABOVE`."""
    if sum(one.dollars for one in found) <= ASKED_ABOVE:
        return None
    return "; ".join(one.words() for one in found)


def _finished(out: Path) -> set[str]:
    """The stages that need not be paid for again; none where there is no run that can be read."""
    if not (out / "run.json").is_file():
        return set()
    try:
        return set(RunRecord.load(out).stages)
    except RunFolderError:
        # Opening the folder, which comes next, says what is wrong with it.
        return set()
