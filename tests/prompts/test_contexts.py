"""Prompts behind something else keep their question and their kind, and share no context with what is reported."""

import random

import pytest

from pkedit.durability.wordings import PREAMBLE, TURNS
from pkedit.prompts import Kind, Prompt, behind_passage, behind_turns, builtin_preambles, builtin_prompts, builtin_turns
from pkedit.prompts.contexts import FEWEST_WORDS, MOST_TURNS, passages
from pkedit.prompts.types import LONG

PROMPT = Prompt(id="p1", question="How?", text="How?", kind=Kind.HARMLESS, topic="that")


@pytest.mark.parametrize("seed", range(8))
def test_earlier_turns_come_before_the_message_which_stays_what_it_was(seed: int) -> None:
    asked = behind_turns(PROMPT, builtin_turns(), random.Random(seed))
    said = asked.conversation
    assert not isinstance(said, str)
    assert [message["role"] for message in said] == ["user", "assistant"] * len(asked.before) + ["user"]
    assert 1 <= len(asked.before) <= MOST_TURNS
    assert len(set(asked.before)) == len(asked.before)
    assert said[-1]["content"] == "How?"
    assert (asked.question, asked.kind, asked.topic) == ("How?", Kind.HARMLESS, "that")
    assert asked.characters == sum(len(message["content"]) for message in said)
    assert asked.id != PROMPT.id


def test_a_prompt_without_earlier_turns_is_its_text() -> None:
    assert PROMPT.conversation == "How?"
    assert PROMPT.characters == 4


def test_there_may_be_fewer_turns_than_could_be_drawn() -> None:
    only = ("Hello.", "Hello!")
    assert behind_turns(PROMPT, [only], random.Random(0)).before == (only,)


def test_a_passage_stands_before_the_prompt_in_the_same_message() -> None:
    asked = behind_passage(PROMPT, "It rained.")
    assert asked.conversation == "It rained.\n\nHow?"
    assert (asked.question, asked.before) == ("How?", ())
    assert asked.id not in (PROMPT.id, behind_turns(PROMPT, builtin_turns(), random.Random(0)).id)


def test_passages_are_what_long_prompts_are_about_without_what_is_asked() -> None:
    long = [prompt for prompt in builtin_prompts(Kind.HARMLESS) if prompt.category == LONG]
    found = passages(long)
    assert 10 < len(found) < len(long)
    assert len(set(found)) == len(found)
    assert all(len(passage.split()) >= FEWEST_WORDS for passage in found)
    assert all(any(prompt.text.startswith(passage) for prompt in long) for passage in found)


def test_the_built_in_contexts_are_several_and_distinct() -> None:
    turns, preambles = builtin_turns(), builtin_preambles()
    assert len(dict(turns)) == len(turns) >= 20
    assert len(set(preambles)) == len(preambles) >= 10
    assert all(user.strip() and answer.strip() for user, answer in turns)
    assert all(len(preamble.split()) >= FEWEST_WORDS for preamble in preambles)


def test_no_context_is_one_that_durability_reports() -> None:
    assert not {user for user, _ in builtin_turns()} & {user for user, _ in TURNS}
    reported = {sentence.strip() for sentence in PREAMBLE.split(".") if sentence.strip()}
    for preamble in builtin_preambles():
        assert not reported & {sentence.strip() for sentence in preamble.split(".")}


def test_no_context_asks_what_is_asked_by_itself() -> None:
    asked = {prompt.question for kind in Kind for prompt in builtin_prompts(kind)}
    assert not asked & {user for user, _ in builtin_turns()}
