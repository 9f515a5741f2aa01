"""The prompts of a run keep to their splits, mix evenly, and come back from disk as they were."""

import pytest

from pkedit.prompts import Kind
from pkedit.prompts.types import LONG
from pkedit.run.data import (
    BORDERLINE_SHARE,
    HARMFUL_PASSAGES,
    edit_prompts,
    held_out_prompts,
    read_splits,
    read_targets,
    run_suite,
    sample_targets,
    target_rows,
)
from pkedit.settings import LocateSettings, RunSettings
from tiny import make_chat

SETTINGS = RunSettings(
    pairs=30,
    demonstrations=40,
    sampled_tokens=6,
    locate=LocateSettings(pairs=4, demonstrations=5),
    attacked_share=1 / 3,
)
SPLITS = read_splits(SETTINGS)
PROMPTS = edit_prompts(SPLITS, SETTINGS)


def test_there_are_as_many_prompts_as_the_settings_ask_for() -> None:
    assert len(PROMPTS.harmful) == 30
    assert sum(prompt.attack is not None for prompt in PROMPTS.harmful) == 10
    assert len(PROMPTS.safe) == 40


def test_the_defaults_use_all_that_was_dealt_to_the_edit_split_and_a_part_of_what_was_pinned_there() -> None:
    found = edit_prompts(SPLITS, RunSettings())
    for used, given in ((found.harmful, SPLITS.edit.harmful), (found.safe, SPLITS.edit.borderline)):
        questions = {prompt.question for prompt in used}
        assert {prompt.question for prompt in given if prompt.split is None} <= questions
        pinned = {prompt.question for prompt in given if prompt.split == "edit"}
        assert len(pinned & questions) > 0.3 * len(pinned)
    assert len({prompt.id for prompt in found.harmful}) == RunSettings().pairs
    assert len({prompt.id for prompt in found.safe}) == pytest.approx(RunSettings().demonstrations, abs=3)


@pytest.mark.parametrize("count", [6, 12, 18])
def test_any_first_part_has_the_same_share_of_attacks_and_of_borderline_prompts(count: int) -> None:
    assert sum(prompt.attack is not None for prompt in PROMPTS.harmful[:count]) == pytest.approx(count / 3, abs=1)
    borderline = sum(prompt.kind is Kind.BORDERLINE for prompt in PROMPTS.safe[:count])
    assert borderline == pytest.approx(BORDERLINE_SHARE * count, abs=1.5)


def test_some_of_each_kind_come_behind_turns_or_a_passage_but_none_that_is_traced() -> None:
    usual = RunSettings()
    found = edit_prompts(SPLITS, usual)
    for prompts, traced, wanted in (
        (found.harmful, usual.locate.pairs, usual.behind_passage * HARMFUL_PASSAGES),
        (found.safe, usual.locate.demonstrations, usual.behind_passage),
    ):
        later = prompts[traced:]
        assert not [prompt for prompt in prompts[:traced] if prompt.id.endswith(("+turns", "+passage"))]
        behind = sum(bool(prompt.before) for prompt in later) / len(later)
        assert behind == pytest.approx(usual.behind_turns, abs=0.03)
        passage = sum(prompt.id.endswith("+passage") for prompt in later) / len(later)
        assert passage == pytest.approx(wanted, abs=0.02)
    assert edit_prompts(SPLITS, usual) == found
    without = edit_prompts(SPLITS, usual.model_copy(update={"behind_turns": 0.0, "behind_passage": 0.0}))
    assert [prompt.question for prompt in without.safe] == [prompt.question for prompt in found.safe]
    assert not any(prompt.before or prompt.id.endswith("+passage") for prompt in (*without.harmful, *without.safe))


def test_answers_to_keep_are_sampled_behind_the_turns_that_come_before() -> None:
    chat = make_chat("llama", max_position_embeddings=2048)
    settings = SETTINGS.model_copy(update={"behind_turns": 1.0})
    prompts = edit_prompts(SPLITS, settings)
    kept = sample_targets(chat, prompts, settings)[1]
    behind = [one for one in kept if one.prompt.before]
    assert len(behind) > 20
    for one in behind[:4]:
        (alone,) = chat.generate([one.prompt.conversation], max_new_tokens=settings.edit.harmless_tokens)
        assert one.answer == alone
    assert any(
        one.answer != chat.generate([one.prompt.text], max_new_tokens=settings.edit.harmless_tokens)[0]
        for one in behind
    )


def test_strength_is_chosen_on_neither_edited_nor_reported_prompts() -> None:
    prompts = held_out_prompts(SPLITS)
    questions, attacks = {prompt.question for prompt in prompts}, {prompt.attack for prompt in prompts}
    for other in (SPLITS.edit, SPLITS.test):
        assert not questions & {prompt.question for prompt in other.harmful}
        assert not attacks & {attack.id for attack in other.attacks}
    assert None in attacks
    assert len(attacks) > 5


def test_targets_come_back_from_disk_as_they_were() -> None:
    chat = make_chat("llama", max_position_embeddings=2048)
    pairs, kept = sample_targets(chat, PROMPTS, SETTINGS)
    assert read_targets(target_rows(pairs, kept), PROMPTS) == (pairs, kept)


def test_only_traced_answers_are_sampled_at_length() -> None:
    chat = make_chat("llama", max_position_embeddings=2048)
    kept = {item.prompt.id: item.answer for item in sample_targets(chat, PROMPTS, SETTINGS)[1]}
    lengths = [len(chat.answer_ids(kept.get(prompt.id, ""), ended=False)) for prompt in PROMPTS.safe]
    assert max(lengths[:5]) == 6
    assert max(lengths[5:]) == SETTINGS.edit.harmless_tokens


def test_long_everyday_prompts_are_learnt_from_and_measured_by_themselves() -> None:
    safe = edit_prompts(SPLITS, RunSettings()).safe
    learnt = {prompt.question for prompt in safe if prompt.category == LONG}
    assert learnt <= {prompt.question for prompt in SPLITS.edit.long}
    assert len(learnt) > 30
    first = [prompt for prompt in safe[: RunSettings().locate.demonstrations] if prompt.category == LONG]
    assert len(first) > 1
    groups = run_suite(SPLITS, [], RunSettings()).groups
    assert {prompt.category for prompt in groups[LONG]} == {LONG}
    assert LONG not in {prompt.category for prompt in groups[Kind.HARMLESS.value]}
    # As long as the attacks are, which is what they are there for.
    attacked = [len(prompt.text.split()) for prompt in groups["dg_other_aq"]]
    assert sum(len(prompt.text.split()) for prompt in groups[LONG]) / len(groups[LONG]) > sum(attacked) / len(attacked)
