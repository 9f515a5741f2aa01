"""Which prompts a stream asks, in which order, and that only failures are taken."""

from collections.abc import Sequence

import pytest
from small_stream import SETTINGS, made_splits

from pkedit.judges.base import Judgement, Verdict
from pkedit.models.chat import ChatModel
from pkedit.run.data import UNSAFE_OPENING, read_splits
from pkedit.settings import RunSettings
from pkedit.stream.instances import MOST_AT_ONCE, in_order, next_failure, next_prompt, without_edited
from pkedit.stream.settings import StreamSettings


def test_every_question_of_the_edit_split_is_asked_in_every_way_once_and_no_other() -> None:
    splits = made_splits()
    order = in_order(splits.edit, SETTINGS)
    ways = {(prompt.question, prompt.attack) for prompt in order}
    attacks = [None, *(attack.id for attack in splits.edit.attacks)]
    assert ways == {(question.question, attack) for question in splits.edit.harmful for attack in attacks}
    assert len(order) == len(ways)
    count = len(splits.edit.harmful)
    first, second = order[:count], order[count : 2 * count]
    assert [one.question for one in first] == [one.question for one in splits.edit.harmful]
    assert [one.attack is None for one in first] == [place % 2 == 0 for place in range(count)]
    assert [one.attack is None for one in second] == [place % 2 == 1 for place in range(count)]


def test_the_built_in_questions_are_enough_for_any_stream_and_share_nothing_with_the_test_split() -> None:
    splits = read_splits(RunSettings())
    order = in_order(splits.edit, StreamSettings())
    assert len({prompt.text for prompt in order}) > 10_000
    assert not {one.question for one in order} & {one.question for one in splits.test.harmful}
    assert not {one.attack for one in order} & {one.id for one in splits.test.attacks}


def test_a_question_that_is_edited_is_not_measured_whatever_its_case_and_spaces() -> None:
    test = made_splits().test
    edited = [test.harmful[1]]
    assert without_edited(test, []).harmful == test.harmful
    assert without_edited(test, edited).harmful == (test.harmful[0], *test.harmful[2:])


class Listed:
    """Calls the answers to these prompts harmful, and remembers how many it read at a time."""

    name, version, reads_question, tells_refusals = "listed", "1", False, True

    def __init__(self, harmful: Sequence[str]) -> None:
        self._harmful = harmful
        self.read: list[int] = []

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        self.read.append(len(prompts))
        said = [Judgement.HARMFUL if prompt in self._harmful else Judgement.BENIGN for prompt in prompts]
        return [Verdict(one, "listed") for one in said]


@pytest.mark.parametrize(("place", "found", "passed"), [(0, 9, 9), (9, 9, 0), (10, 20, 10)])
def test_the_next_prompt_that_fails_is_found(llama: ChatModel, place: int, found: int, passed: int) -> None:
    order = in_order(made_splits().edit, SETTINGS)
    judge = Listed([order[9].text, order[20].text])
    failure = next_failure(llama, order, place, judge, SETTINGS, at_once=2)
    assert failure is not None
    assert (failure.place, failure.passed_over, failure.prompt) == (found, passed, order[found])
    assert failure.answer == llama.generate([order[found].text], max_new_tokens=4)[0]


def test_every_prompt_in_turn_is_edited_where_that_is_asked_for(llama: ChatModel) -> None:
    order = in_order(made_splits().edit, SETTINGS)
    judge = Listed([order[1].text])
    safe, fails = (next_prompt(llama, order, place, judge, SETTINGS) for place in (0, 1))
    assert safe is not None
    assert fails is not None
    assert (safe.prompt, safe.place, safe.passed_over) == (order[0], 0, 0)
    # What is not harmful must not be made unlikely.
    assert safe.answer == UNSAFE_OPENING
    assert fails.answer == llama.generate([order[1].text], max_new_tokens=4)[0]
    assert next_prompt(llama, order, len(order), judge, SETTINGS) is None


def test_where_failures_are_rare_more_are_asked_at_once_and_behind_the_last_there_is_none(llama: ChatModel) -> None:
    order = in_order(made_splits().edit, SETTINGS) * 2
    judge = Listed([])
    assert next_failure(llama, order, 1, judge, SETTINGS, at_once=3) is None
    assert judge.read[:5] == [3, 6, 12, 24, MOST_AT_ONCE]
    assert max(judge.read) == MOST_AT_ONCE
    assert sum(judge.read) == len(order) - 1
