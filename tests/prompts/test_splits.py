"""No question and no attack template serves two purposes; the seed decides the split and nothing else does."""

from collections import Counter
from dataclasses import replace

import pytest

from pkedit.errors import TooFewPairsError
from pkedit.prompts import (
    Kind,
    Prompt,
    Split,
    Splits,
    builtin_attacks,
    builtin_prompts,
    builtin_refusals,
    contrast_pairs,
    cross,
    make_splits,
    spread,
)

PURPOSES = ("edit", "select", "test")
FIELDS = ("harmful", "attacks", "harmless", "borderline")


def builtin_splits(seed: int = 0) -> Splits:
    return make_splits(
        builtin_prompts(Kind.HARMFUL),
        builtin_attacks(),
        builtin_prompts(Kind.HARMLESS),
        builtin_prompts(Kind.BORDERLINE),
        seed=seed,
    )


def parts(splits: Splits) -> list[Split]:
    return [getattr(splits, purpose) for purpose in PURPOSES]


def prompts(count: int, kind: Kind = Kind.HARMFUL) -> list[Prompt]:
    return [Prompt(f"{kind.value}{number}", f"{kind} {number}?", f"{kind} {number}?", kind) for number in range(count)]


def test_splits_share_no_question_and_no_template_and_lose_none() -> None:
    splits = builtin_splits()
    for field in ("harmful", "harmless", "borderline"):
        questions = [prompt.question.lower() for part in parts(splits) for prompt in getattr(part, field)]
        assert len(set(questions)) == len(questions), field
        assert len(questions) == len(builtin_prompts(Kind(field)))
    templates = [attack.text for part in parts(splits) for attack in part.attacks]
    assert len(set(templates)) == len(templates) == len(builtin_attacks())


def test_repeated_questions_stay_in_one_split_whatever_their_case_and_spaces() -> None:
    originals = prompts(12)
    copies = [replace(p, id=f"{p.id}-copy", question=f"  {p.question.upper()} ") for p in originals]
    splits = make_splits(
        [*originals, *copies],
        builtin_attacks(),
        prompts(12, Kind.HARMLESS),
        prompts(12, Kind.BORDERLINE),
        seed=0,
    )
    seen = [{prompt.question.strip().lower() for prompt in part.harmful} for part in parts(splits)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_the_same_seed_gives_the_same_split() -> None:
    assert builtin_splits(3) == builtin_splits(3)


@pytest.mark.parametrize("field", FIELDS)
def test_another_seed_gives_another_split(field: str) -> None:
    first, second = (set(getattr(builtin_splits(seed).test, field)) for seed in (0, 1))
    assert first != second


def test_the_order_of_the_global_generator_does_not_matter() -> None:
    import random

    random.seed(1)
    first = builtin_splits()
    random.seed(2)
    assert builtin_splits() == first


def test_shares_are_half_a_sixth_and_a_third_in_every_category() -> None:
    splits = builtin_splits()
    dealt = [[prompt for prompt in part.harmful if prompt.split is None] for part in parts(splits)]
    total = Counter(prompt.category for part in dealt for prompt in part)
    for part, share in zip(dealt, (0.5, 0.16, 0.34), strict=True):
        counts = Counter(prompt.category for prompt in part)
        assert len(part) == pytest.approx(share * sum(total.values()), abs=1.5)
        for category, whole in total.items():
            assert counts[category] == pytest.approx(share * whole, abs=2)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_prompt_that_names_its_split_goes_there_and_moves_no_other(purpose: str) -> None:
    dealt = [prompts(20, kind) for kind in (Kind.HARMFUL, Kind.HARMLESS, Kind.BORDERLINE)]
    before = make_splits(dealt[0], builtin_attacks(), dealt[1], dealt[2], seed=0)
    named = [replace(p, id=f"n{p.id}", question=f"named {p.id}", split=purpose) for p in prompts(5)]
    after = make_splits([*named, *dealt[0]], builtin_attacks(), dealt[1], dealt[2], seed=0)
    for name, old, new in zip(PURPOSES, parts(before), parts(after), strict=True):
        assert new.harmful[: len(old.harmful)] == old.harmful
        assert set(new.harmful[len(old.harmful) :]) == (set(named) if name == purpose else set())
        assert (new.attacks, new.harmless, new.borderline) == (old.attacks, old.harmless, old.borderline)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("harmful", "harmful prompts"),
        ("attacks", "attack templates"),
        ("harmless", "harmless prompts"),
        ("borderline", "borderline prompts"),
    ],
)
def test_too_few_of_anything_is_an_error_that_says_of_what(short: str, name: str) -> None:
    given = {
        "harmful": prompts(9),
        "attacks": builtin_attacks(),
        "harmless": prompts(9, Kind.HARMLESS),
        "borderline": prompts(9, Kind.BORDERLINE),
    }
    given[short] = given[short][:2]
    with pytest.raises(TooFewPairsError, match=name):
        make_splits(*(given[field] for field in FIELDS), seed=0)


def test_six_of_each_are_enough() -> None:
    splits = make_splits(
        prompts(6), builtin_attacks()[:6], prompts(6, Kind.HARMLESS), prompts(6, Kind.BORDERLINE), seed=0
    )
    for part in parts(splits):
        assert all(getattr(part, field) for field in FIELDS)


def test_cross_asks_each_question_once_and_uses_the_attacks_in_turn() -> None:
    attacks = builtin_attacks()[:2]
    crossed = cross(prompts(5), attacks)
    assert [prompt.question for prompt in crossed] == [prompt.question for prompt in prompts(5)]
    assert [prompt.attack for prompt in crossed] == [attacks[index % 2].id for index in range(5)]


def test_spread_uses_each_item_about_equally_often() -> None:
    assert spread(["a", "b", "c"], 7) == ["a", "b", "c", "a", "b", "c", "a"]
    assert spread(["a", "b", "c"], 2) == ["a", "b"]


def test_contrast_pairs_refuse_by_topic_and_keep_the_unsafe_answer() -> None:
    asked = [replace(p, topic=f"topic{i}", better=f"better{i}") for i, p in enumerate(prompts(3))]
    pairs = contrast_pairs(asked, ["no {topic}, rather {better}", "{better} instead of {topic}"], ["u0", "u1", "u2"])
    assert [pair.safe for pair in pairs] == [
        "no topic0, rather better0",
        "better1 instead of topic1",
        "no topic2, rather better2",
    ]
    assert [pair.unsafe for pair in pairs] == ["u0", "u1", "u2"]


def test_contrast_pairs_need_one_unsafe_answer_for_each_prompt() -> None:
    with pytest.raises(ValueError, match="argument"):
        contrast_pairs(prompts(3), builtin_refusals(), ["only one"])
