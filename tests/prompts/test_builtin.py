"""The built-in sets are as large, as distinct and as complete as the method needs."""

from collections import Counter

from pkedit.prompts import Kind, builtin_attacks, builtin_prompts, builtin_refusals
from pkedit.prompts.types import LONG, SPLITS


def questions(kind: Kind) -> list[str]:
    return [" ".join(prompt.question.lower().split()) for prompt in builtin_prompts(kind)]


def test_there_are_enough_harmful_questions_in_each_of_nine_categories() -> None:
    harmful = builtin_prompts(Kind.HARMFUL)
    assert len(harmful) >= 180
    counts = Counter(prompt.category for prompt in harmful)
    assert len(counts) == 9
    assert min(counts.values()) >= 20


def test_every_harmful_question_says_what_to_refuse_and_what_to_offer() -> None:
    for prompt in builtin_prompts(Kind.HARMFUL):
        assert prompt.topic != "that request", prompt.id
        assert prompt.better != "a safe alternative", prompt.id


def test_there_are_enough_harmless_and_borderline_prompts() -> None:
    assert len(builtin_prompts(Kind.HARMLESS)) >= 240
    assert len(builtin_prompts(Kind.BORDERLINE)) >= 100


def test_a_list_of_them_can_be_changed_without_changing_the_next() -> None:
    for listed in (lambda: builtin_prompts(Kind.HARMFUL), builtin_attacks):
        first = listed()
        first.clear()
        assert listed()


def test_there_are_enough_attacks_of_several_families_with_different_texts() -> None:
    attacks = builtin_attacks()
    assert len(attacks) >= 16
    assert len({attack.family for attack in attacks}) >= 8
    assert len({attack.text for attack in attacks}) == len(attacks)


def test_every_refusal_names_the_topic_and_an_alternative() -> None:
    refusals = builtin_refusals()
    assert len(refusals) >= 24
    assert len(set(refusals)) == len(refusals)
    for text in refusals:
        assert text.count("{topic}") == 1
        assert text.count("{better}") == 1
        filled = text.format(topic="TOPIC", better="BETTER")
        assert "TOPIC" in filled
        assert "BETTER" in filled
        assert "{" not in filled


def test_no_question_is_repeated_within_or_across_kinds() -> None:
    counts = Counter(question for kind in Kind for question in questions(kind))
    assert [question for question, count in counts.items() if count > 1] == []


def test_ids_are_unique_across_kinds() -> None:
    ids = [prompt.id for kind in Kind for prompt in builtin_prompts(kind)]
    assert len(set(ids)) == len(ids)


def test_prompts_carry_the_kind_that_was_asked_for() -> None:
    for kind in Kind:
        assert {prompt.kind for prompt in builtin_prompts(kind)} == {kind}


def test_no_passage_of_a_long_prompt_serves_two_purposes() -> None:
    """Tasks may be asked twice, what they are about may not: no eight words in a row stand in two splits."""
    seen: dict[str, set[tuple[str, ...]]] = {split: set() for split in SPLITS}
    long = [prompt for prompt in builtin_prompts(Kind.HARMLESS) if prompt.category == LONG]
    for prompt in long:
        words = prompt.text.lower().split()
        assert prompt.split is not None
        assert len(prompt.text) > 200
        seen[prompt.split] |= {tuple(words[place : place + 8]) for place in range(len(words) - 7)}
    assert not seen["edit"] & seen["select"]
    assert not seen["edit"] & seen["test"]
    assert not seen["select"] & seen["test"]
    assert [sum(prompt.split == split for prompt in long) for split in SPLITS] == [47, 10, 34]
