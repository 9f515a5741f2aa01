"""The `everyday` items are many, balanced, unambiguous in form, and their sums are right."""

import re
from collections import Counter

import pytest

from pkedit.evaluate.tasks.everyday import TOPICS, Item, items

ITEMS = items()
SUM = re.compile(r"What is (\d+) ([-+x]) (\d+)\?")
PART = re.compile(r"What is (half of|double) (\d+)\?")
NEIGHBOUR = re.compile(r"What number comes (right after|just before) (\d+)\?")


def of(topic: str) -> list[Item]:
    return [item for item in ITEMS if item.topic == topic]


def last_number(text: str) -> int:
    return int(re.findall(r"\d+", text)[-1])


def guessed(choose: object) -> float:
    """The share answered rightly by taking the longest (`max`) or shortest (`min`) choice, ties by chance."""
    right = 0.0
    for item in ITEMS:
        lengths = [len(choice) for choice in item.choices]
        wanted = max(lengths) if choose is max else min(lengths)
        right += (lengths[item.answer] == wanted) / lengths.count(wanted)
    return right / len(ITEMS)


def test_there_are_at_least_220_items_a_third_on_each_topic() -> None:
    assert len(ITEMS) >= 220
    assert {item.topic for item in ITEMS} == set(TOPICS)
    assert max(Counter(item.topic for item in ITEMS).values()) <= 1.1 * len(ITEMS) / 3


def test_every_item_has_four_different_choices_and_a_valid_answer() -> None:
    for item in ITEMS:
        assert len({choice.casefold() for choice in item.choices}) == len(item.choices) == 4, item
        assert item.answer in range(4), item
        assert item.question.endswith("?"), item
        assert all(text == text.strip() != "" for text in (item.question, *item.choices)), item


def test_only_reading_items_have_a_passage_and_each_passage_serves_two() -> None:
    assert all(bool(item.passage) == (item.topic == "reading") for item in ITEMS)
    assert set(Counter(item.passage for item in of("reading")).values()) == {2}


def test_no_item_stands_twice() -> None:
    assert len({(item.passage, item.question.casefold()) for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("topic", TOPICS)
def test_each_place_is_right_equally_often(topic: str) -> None:
    counts = Counter(item.answer for item in of(topic))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("choose", [max, min])
def test_the_length_of_a_choice_does_not_give_the_answer_away(choose: object) -> None:
    assert 0.15 <= guessed(choose) <= 0.3


def test_the_sums_are_right() -> None:
    signs = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__}
    found = 0
    for item in of("arithmetic"):
        if match := SUM.fullmatch(item.question):
            first, sign, second = match.groups()
            result = signs[sign](int(first), int(second))
            assert item.choices[item.answer] == f"{first} {sign} {second} = {result}", item
            assert [last_number(choice) for choice in item.choices].count(result) == 1, item
            found += 1
    assert found >= 40


def test_halves_doubles_neighbours_and_series_are_right() -> None:
    found = 0
    for item in of("arithmetic"):
        right = item.choices[item.answer]
        if match := PART.fullmatch(item.question):
            number = int(match[2])
            expected = number / 2 if match[1] == "half of" else number * 2
        elif match := NEIGHBOUR.fullmatch(item.question):
            expected = int(match[2]) + (1 if match[1] == "right after" else -1)
        elif item.question.startswith("What number comes next:"):
            first, second, *_ = series = [int(number) for number in re.findall(r"\d+", item.question)]
            assert series == list(range(first, series[-1] + 1, second - first)), item
            expected = series[-1] + second - first
        else:
            continue
        assert last_number(right) == expected, item
        found += 1
    assert found >= 15


def test_the_right_number_of_a_word_problem_differs_from_the_wrong_ones() -> None:
    for item in of("arithmetic"):
        numbers = [tuple(re.findall(r"\d+", choice)) for choice in item.choices]
        assert len(set(numbers)) == 4, item
