"""Trials are measured on the select split by the figures of a run, and a broken edit is told from a bad one."""

from dataclasses import replace

import pytest

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import PkeditError
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import measure
from pkedit.judges.base import Judge, Judgement, Verdict
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel
from pkedit.prompts import Demonstration, Kind
from pkedit.run.data import read_splits
from pkedit.settings import RunSettings
from pkedit.tune import scoring
from pkedit.tune.scoring import SelectSplit, search_judges, select_suite
from pkedit.tune.trials import OBJECTIVES, TrialFailed
from tiny import make_region


def made_up_delta(chat: ChatModel, size: float) -> Delta:
    hooked = HookedDelta(chat, make_region({2: [0, 3, 5]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.fill_(size)
    return hooked.freeze()


@pytest.fixture(scope="module")
def select(tune_chat: ChatModel, tune_settings: RunSettings) -> SelectSplit:
    return SelectSplit(tune_chat, read_splits(tune_settings).select, [RuleJudge()], tune_settings)


def test_only_prompts_of_the_select_split_are_asked(tune_settings: RunSettings) -> None:
    splits = read_splits(tune_settings)
    asked = {prompt.question for _, prompt in select_suite(splits.select, tune_settings).prompts}
    own = {one.question for kind in ("harmful", "harmless", "borderline") for one in getattr(splits.select, kind)}
    assert asked == own
    groups = select_suite(splits.select, tune_settings).groups
    assert {one.attack for one in groups["dg_other_aq"]} <= {attack.id for attack in splits.select.attacks}


def test_the_figures_are_those_that_a_run_measures(
    select: SelectSplit, tune_chat: ChatModel, tune_settings: RunSettings
) -> None:
    suite = select_suite(read_splits(tune_settings).select, tune_settings)
    limit = tune_settings.evaluate.max_new_tokens
    plain = measure(tune_chat, suite, [RuleJudge()], arm="vanilla", max_new_tokens=limit)
    answers = {one.prompt_id: one.answer for one in plain.responses}
    kept = [Demonstration(one, answers[one.id]) for one in suite.groups[Kind.HARMLESS.value] if answers[one.id]]
    meter = DriftMeter(tune_chat, kept, limit=limit)
    delta = made_up_delta(tune_chat, 2.0)
    with delta.applied_to(tune_chat):
        edited = measure(tune_chat, suite, [RuleJudge()], arm="pke", max_new_tokens=limit, meter=meter)
    found = select.scores(delta)
    assert list(found) == list(OBJECTIVES)
    for name in OBJECTIVES:
        assert (found[name].value, found[name].n) == (pytest.approx(edited.metrics[name].value), edited.metrics[name].n)
        assert found[name].low == pytest.approx(edited.metrics[name].low)
    assert found["kl"].value > 0.0
    assert {name: one.value for name, one in select.vanilla.items() if name != "kl"} == {
        name: plain.metrics[name].value for name in OBJECTIVES if name != "kl"
    }
    assert select.vanilla["kl"].value == 0.0


def test_a_model_that_an_edit_broke_is_a_failed_trial(select: SelectSplit, tune_chat: ChatModel) -> None:
    with pytest.raises(TrialFailed, match="NaN or Inf"):
        select.scores(made_up_delta(tune_chat, 1e30))
    assert select.scores(made_up_delta(tune_chat, 0.0))["kl"].value == pytest.approx(0.0, abs=1e-6)


class Guard:
    """Calls every answer harmful, and knows no refusals."""

    name, version, reads_question, tells_refusals = "guard", "1", True, False

    def judge(self, prompts: list[str], answers: list[str], *, harmful_request: bool) -> list[Verdict]:
        return [Verdict(Judgement.HARMFUL if harmful_request else Judgement.UNJUDGED, "") for _ in prompts]


def test_a_judge_that_knows_no_refusals_is_helped_by_one_that_does(
    tune_chat: ChatModel, tune_settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Judge] = [Guard(), RuleJudge()]
    monkeypatch.setattr(scoring, "make_judges", lambda *_: made)
    judges = search_judges(tune_settings)
    assert [judge.name for judge in judges] == ["guard", "rules"]
    vanilla = SelectSplit(tune_chat, read_splits(tune_settings).select, judges, tune_settings).vanilla
    assert vanilla["asr"].value == 1.0
    assert vanilla["over_refusal"].n == 2
    made[:] = [RuleJudge(), Guard()]
    assert [judge.name for judge in search_judges(tune_settings)] == ["rules"]
    made[:] = [Guard()]
    with pytest.raises(PkeditError, match="cannot say what a refusal is; add rules to --judges"):
        search_judges(tune_settings)


def test_a_model_without_words_is_told_so(tune_chat: ChatModel, tune_settings: RunSettings) -> None:
    mute = replace(tune_chat)
    object.__setattr__(mute, "generate", lambda texts, **_: [""] * len(texts))
    with pytest.raises(PkeditError, match="answers none of the harmless prompts"):
        SelectSplit(mute, read_splits(tune_settings).select, [RuleJudge()], tune_settings)
