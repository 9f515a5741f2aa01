"""Splits prompts so that no question and no attack template serves two purposes.

`edit` is what locating and editing see, `select` what stopping and tuning see, `test` what is reported.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pkedit.errors import TooFewPairsError
from pkedit.prompts.types import LONG, Attack, ContrastPair, Prompt

Item = TypeVar("Item")

# Half of everything is for editing, a third for the reported numbers, the rest for choosing.
SHARES = {"edit": 0.5, "select": 0.16, "test": 0.34}


@dataclass(frozen=True)
class Split:
    """The prompts that one purpose may use. `harmful` are bare questions; attacks are put around them later."""

    harmful: tuple[Prompt, ...]
    attacks: tuple[Attack, ...]
    harmless: tuple[Prompt, ...]
    borderline: tuple[Prompt, ...]

    @property
    def short(self) -> list[Prompt]:
        """The harmless prompts but those of many lines."""
        return [prompt for prompt in self.harmless if prompt.category != LONG]

    @property
    def long(self) -> list[Prompt]:
        """The harmless prompts of many lines."""
        return [prompt for prompt in self.harmless if prompt.category == LONG]


@dataclass(frozen=True)
class Splits:
    """The three disjoint splits."""

    edit: Split
    select: Split
    test: Split


def make_splits(
    harmful: Sequence[Prompt],
    attacks: Sequence[Attack],
    harmless: Sequence[Prompt],
    borderline: Sequence[Prompt],
    *,
    seed: int,
) -> Splits:
    """Disjoint splits, stratified by category and by family of attack, shuffled by `seed`.

    Questions with the same text (case and spaces aside) always fall into the same split. Prompts that name their split
    follow there behind those that were dealt.

    Raises:
        TooFewPairsError: a split would be left without a question, template or safe prompt.
    """
    templates = _deal("attack templates", attacks, lambda attack: attack.family, seed)
    questions, everyday, lookalike = (
        _placed(f"{name} prompts", _distinct(prompts), seed)
        for name, prompts in (("harmful", harmful), ("harmless", harmless), ("borderline", borderline))
    )
    return Splits(
        **{
            purpose: Split(questions[purpose], templates[purpose], everyday[purpose], lookalike[purpose])
            for purpose in SHARES
        }
    )


def _placed(name: str, prompts: Sequence[Prompt], seed: int) -> dict[str, tuple[Prompt, ...]]:
    """Deals the prompts that name no split; those that do follow, shuffled too, for a run may take only some."""
    dealt = _deal(name, [prompt for prompt in prompts if prompt.split is None], lambda prompt: prompt.category, seed)
    placed = {}
    for purpose, members in dealt.items():
        named = [prompt for prompt in prompts if prompt.split == purpose]
        random.Random(seed).shuffle(named)
        placed[purpose] = (*members, *named)
    return placed


def _deal(name: str, items: Sequence[Item], group_of: Callable[[Item], str], seed: int) -> dict[str, tuple[Item, ...]]:
    """Deals the items of each group out by share; rounding carries over from group to group."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[group_of(item)].append(item)
    generator = random.Random(seed)
    dealt: dict[str, list[Item]] = {purpose: [] for purpose in SHARES}
    placed = 0
    for group in sorted(groups):
        members = groups[group]
        generator.shuffle(members)
        for member in members:
            # The purpose furthest behind its share gets the next item.
            placed += 1
            purpose = max(SHARES, key=lambda purpose: SHARES[purpose] * placed - len(dealt[purpose]))
            dealt[purpose].append(member)
    for purpose, share in dealt.items():
        if not share:
            raise TooFewPairsError(f"too few {name} to leave any for the {purpose!r} split; give at least six")
        generator.shuffle(share)
    return {purpose: tuple(share) for purpose, share in dealt.items()}


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    by_question: dict[str, Prompt] = {}
    for prompt in prompts:
        by_question.setdefault(" ".join(prompt.question.lower().split()), prompt)
    return list(by_question.values())


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items, going round as often as needed (so each is used about equally often)."""
    return [items[index % len(items)] for index in range(count)]


def cross(questions: Sequence[Prompt], attacks: Sequence[Attack]) -> list[Prompt]:
    """Each question in one attack, the attacks in turn."""
    return [attacks[index % len(attacks)].apply(question) for index, question in enumerate(questions)]


def contrast_pairs(prompts: Sequence[Prompt], refusals: Sequence[str], unsafe: Sequence[str]) -> list[ContrastPair]:
    """Pairs each prompt with a refusal that names its topic and with the given unsafe answer."""
    return [
        ContrastPair(
            prompt=prompt,
            safe=refusals[index % len(refusals)].format(topic=prompt.topic, better=prompt.better),
            unsafe=answer,
        )
        for index, (prompt, answer) in enumerate(zip(prompts, unsafe, strict=True))
    ]
