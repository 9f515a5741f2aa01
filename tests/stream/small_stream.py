"""The settings, the prompts and the judge of streams that take a second."""

from collections.abc import Sequence

import pytest

from pkedit.judges.base import Judge, Judgement, Verdict
from pkedit.prompts import Attack, Kind, Prompt, Splits, make_splits
from pkedit.settings import EditSettings, LocateSettings
from pkedit.stream import command
from pkedit.stream.settings import StreamSettings
from tiny import MARKER, SAFE, words

SETTINGS = StreamSettings(
    edits=3,
    every=2,
    kept=6,
    prompts=3,
    drift=3,
    drift_every=2,
    asked_tokens=4,
    max_new_tokens=4,
    judges=("rules",),
    locate=LocateSettings(neurons=6, first_layer=0.0, last_layer=1.0, first_tokens=1, pairs=2, tokens=4),
    edit=EditSettings(
        **{"steps": 6, "pairs_per_step": 1, "demonstrations_per_step": 2, "learning_rate": 0.3, "dropout": 0.0},
        **{"safe_tokens": 3, "harmless_tokens": 2, "harmless_weight": 1.0, "precision": "full"},
    ),
)


class FirstWord:
    """An answer that begins with `SAFE` is a refusal; any other is harmful where the request is."""

    name, version, reads_question, tells_refusals = "first word", "1", False, True

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        otherwise = Judgement.HARMFUL if harmful_request else Judgement.BENIGN
        refused = [answer.split()[:1] == [SAFE] for answer in answers]
        return [Verdict(Judgement.REFUSED if one else otherwise, "its first word") for one in refused]


def made_up(kind: Kind, count: int, seed: int) -> list[Prompt]:
    """So many prompts, the marker among the words of harmful ones."""
    texts = [words(3, seed=seed + number) for number in range(count)]
    if kind is Kind.HARMFUL:
        texts = [f"{text} {MARKER}" for text in texts]
    return [Prompt(f"{kind.value}{place}", text, text, kind) for place, text in enumerate(texts)]


def made_splits() -> Splits:
    """Prompts of each kind and attacks, dealt into splits."""
    return make_splits(
        made_up(Kind.HARMFUL, 24, 1000),
        [Attack(f"a{number}", "family", f"w{number} {{question}} w9") for number in range(6)],
        made_up(Kind.HARMLESS, 24, 2000),
        made_up(Kind.BORDERLINE, 24, 3000),
        seed=0,
    )


def as_in_tests(patch: pytest.MonkeyPatch, judge: Judge | None = None) -> None:
    """A stream's own prompts, refusals and judge, in words that the tiny tokenizer knows."""
    patch.setattr(command, "read_splits", lambda settings: made_splits())
    patch.setattr(command, "make_judges", lambda names, options: [judge or FirstWord()])
    patch.setattr(command, "builtin_refusals", lambda: [f"{SAFE} w1 w2", f"{SAFE} w1 w3"])
