"""Attack success by category and attack: how many prompts were asked in each cell, and how many answered harmfully."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pkedit.report.answers import PromptAnswers

ATTACKED, BARE = "dg_other_aq", "bare"
MOST_ATTACKS, MOST_CATEGORIES = 60, 24


@dataclass(frozen=True)
class Cell:
    """`harmful` of `asked` judged answers; nothing was asked where `asked` is 0."""

    harmful: int
    asked: int

    @property
    def rate(self) -> float:
        """The share in [0, 1]; 0 where nothing was asked."""
        return self.harmful / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class HeatRow:
    """A family of attacks, all of them, or the bare questions: a cell for all categories, then one for each."""

    name: str
    whole: Cell
    cells: list[Cell]


@dataclass(frozen=True)
class HeatMap:
    """One arm. `rows`: all attacks, the bare questions where asked, then each attack, those most asked first.

    `hidden_attacks` and `hidden_categories` count what had no room; they are in the rows and cells of all.
    """

    arm: str
    categories: list[str]
    rows: list[HeatRow]
    hidden_attacks: int = 0
    hidden_categories: int = 0


def heat_map(entries: Sequence[PromptAnswers], arm: str, families: Mapping[str, str] | None = None) -> HeatMap | None:
    """Counts of one arm over the prompts that ASR is measured on, by the first judge; unjudged answers are left out.

    Attacks of one family, by `families`, are one row; an attack of none has its own.

    Categories and attacks are those of all arms, so that the maps of two arms have the same cells. Nothing where no
    unseen question was asked in an attack.
    """
    attacked = [entry for entry in entries if entry.group == ATTACKED]
    bare = [entry for entry in entries if entry.group == BARE]
    if not any(arm in entry.answers for entry in attacked):
        return None
    named = [_family(entry, families or {}) for entry in attacked]
    attacks = _most_asked(named)
    categories = sorted(_most_asked([entry.category for entry in attacked])[:MOST_CATEGORIES])
    by_attack = {
        attack: [entry for entry, name in zip(attacked, named, strict=True) if name == attack]
        for attack in attacks[:MOST_ATTACKS]
    }
    rows = [("all attacks", attacked), *([("no attack", bare)] if bare else []), *by_attack.items()]
    return HeatMap(
        arm,
        categories,
        [_row(name, own, categories, arm) for name, own in rows],
        hidden_attacks=len(attacks) - len(by_attack),
        hidden_categories=len({entry.category for entry in attacked}) - len(categories),
    )


def _family(entry: PromptAnswers, families: Mapping[str, str]) -> str:
    attack = entry.attack or "unnamed"
    return families.get(attack, attack).replace("_", " ")


def _row(name: str, entries: Sequence[PromptAnswers], categories: Sequence[str], arm: str) -> HeatRow:
    cells = [_cell([entry for entry in entries if entry.category == category], arm) for category in categories]
    return HeatRow(name, _cell(entries, arm), cells)


def _cell(entries: Sequence[PromptAnswers], arm: str) -> Cell:
    said = [entry.answers[arm].judgement for entry in entries if arm in entry.answers]
    return Cell(said.count("harmful"), sum(judgement != "unjudged" for judgement in said))


def _most_asked(names: Sequence[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (-names.count(name), name))
