"""Each step sees the examples it should: whole pairs, those not yet seen first, and hard ones more often."""

from collections import Counter
from typing import Any

from pkedit.edit.examples import Sampler, make_examples
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import ContrastPair
from pkedit.settings import EditSettings
from tiny import SAFE, UNSAFE, make_demonstrations, make_pairs, token


def sampler(chat: ChatModel, pairs: int, kept: int, **changes: Any) -> Sampler:
    settings = EditSettings(**changes)
    return Sampler(make_examples(chat, make_pairs(pairs), make_demonstrations(kept), settings), settings)


def test_a_single_unsafe_token_is_avoided_where_the_safe_answer_begins(llama: ChatModel) -> None:
    examples = make_examples(llama, make_pairs(2), make_demonstrations(1), EditSettings(unsafe_tokens=1))
    assert [(example.role, example.source, example.avoid) for example in examples] == [
        ("safe", 0, token(UNSAFE)),
        ("safe", 1, token(UNSAFE)),
        ("harmless", 0, None),
    ]


def test_several_unsafe_tokens_are_a_dialogue_of_their_own_without_end_of_turn(llama: ChatModel) -> None:
    (pair,) = make_pairs(1)
    safe, unsafe, _ = make_examples(llama, [pair], make_demonstrations(1), EditSettings(unsafe_tokens=8))
    assert (safe.role, safe.avoid, unsafe.role, unsafe.source) == ("safe", None, "unsafe", 0)
    assert list(unsafe.dialogue.answer) == llama.answer_ids(pair.unsafe, ended=False)
    assert unsafe.dialogue.prompt == safe.dialogue.prompt


def test_an_unsafe_answer_that_begins_like_the_safe_one_is_not_avoided_there(llama: ChatModel) -> None:
    (pair,) = make_pairs(1)
    same = ContrastPair(pair.prompt, f"{SAFE} w1", f"{SAFE} w2")
    assert make_examples(llama, [same], [], EditSettings(unsafe_tokens=1))[0].avoid is None


def test_without_an_unsafe_weight_no_pass_is_spent_on_unsafe_answers(llama: ChatModel) -> None:
    examples = make_examples(llama, make_pairs(2), [], EditSettings(unsafe_weight=0.0, unsafe_tokens=8))
    assert [example.role for example in examples] == ["safe", "safe"]


def test_a_step_takes_whole_pairs_and_the_wanted_number_of_harmless_answers(llama: ChatModel) -> None:
    drawn = sampler(llama, 5, 6, pairs_per_step=2, demonstrations_per_step=3, unsafe_tokens=4)
    for _ in range(10):
        chosen = [drawn.examples[index] for index in drawn.draw()]
        roles = Counter(example.role for example in chosen)
        assert roles == {"safe": 2, "unsafe": 2, "harmless": 3}
        by_role = {role: {e.source for e in chosen if e.role == role} for role in roles}
        assert by_role["safe"] == by_role["unsafe"]
        assert len(by_role["harmless"]) == 3


def test_a_step_takes_everything_where_there_is_no_more(llama: ChatModel) -> None:
    drawn = sampler(llama, 2, 3, pairs_per_step=10, demonstrations_per_step=10, unsafe_tokens=1)
    assert sorted(drawn.draw()) == list(range(5))


def test_examples_that_were_not_seen_yet_come_first(llama: ChatModel) -> None:
    drawn = sampler(llama, 8, 1, pairs_per_step=2, unsafe_tokens=1)
    seen: list[int] = []
    for _ in range(4):
        for index in drawn.draw():
            if drawn.examples[index].role == "safe":
                seen.append(index)
                drawn.report(index, 0.01)
    assert len(set(seen)) >= 7


def test_hard_examples_come_more_often_but_easy_ones_are_not_forgotten(llama: ChatModel) -> None:
    drawn = sampler(llama, 4, 1, pairs_per_step=1, unsafe_tokens=1)
    for index in range(4):
        drawn.report(index, 3.0 if index == 2 else 0.0)
    counts = Counter(index for _ in range(300) for index in drawn.draw() if index < 4)
    assert counts[2] > 150
    assert all(counts[index] > 5 for index in range(4))


def test_the_same_seed_draws_the_same(llama: ChatModel) -> None:
    def draws(seed: int) -> list[list[int]]:
        drawn = sampler(llama, 6, 6, pairs_per_step=2, demonstrations_per_step=2, seed=seed)
        return [drawn.draw() for _ in range(5)]

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


def test_the_goal_is_met_only_when_every_pair_was_seen_at_zero(llama: ChatModel) -> None:
    drawn = sampler(llama, 2, 1, unsafe_tokens=1)
    assert not drawn.all_met()
    drawn.report(0, 0.0)
    assert not drawn.all_met()
    drawn.report(1, 0.0)
    drawn.report(2, 5.0)
    assert drawn.all_met()
    drawn.report(0, 0.1)
    assert not drawn.all_met()
