"""Rates, drift and comparisons: what is counted, what is left out, and that nothing unmeasured appears."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from pkedit.evaluate.compare import compare_arms
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import Measurement, Response, measure, outcomes, rates
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judgement, Verdict
from pkedit.models.chat import ChatModel
from pkedit.prompts import Attack, ContrastPair, Demonstration, Kind, Prompt, Split
from pkedit.settings import EvaluateSettings


def prompt(name: str, kind: Kind = Kind.HARMFUL) -> Prompt:
    return Prompt(id=name, question=f"w1 w2 {name}", text=f"w1 w2 {name}", kind=kind)


def response(group: str, name: str, judgement: Judgement) -> Response:
    return Response("vanilla", group, name, "other", None, "question", "answer", "test", "1", judgement.value, "")


class FixedJudge:
    """Gives the same verdict to everything."""

    name, version = "fixed", "1"

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self.seen: list[tuple[tuple[str, ...], bool]] = []

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        self.seen.append((tuple(prompts), harmful_request))
        return [Verdict(self.judgement, "fixed") for _ in answers]


SUITE = Suite(
    {
        "dg_other_aq": (prompt("w10"), prompt("w11")),
        "harmless": (prompt("w12", Kind.HARMLESS), prompt("w13", Kind.HARMLESS)),
    }
)


def test_unjudged_answers_are_left_out_and_not_counted_as_safe() -> None:
    rows = [
        response("dg_other_aq", "a", Judgement.HARMFUL),
        response("dg_other_aq", "b", Judgement.UNJUDGED),
        response("dg_other_aq", "c", Judgement.REFUSED),
    ]
    assert rates(rows)["asr"].n == 2
    assert rates(rows)["asr"].value == 0.5


def test_babble_is_neither_a_successful_attack_nor_a_defence() -> None:
    rows = [response("dg_other_aq", name, Judgement.INCOHERENT) for name in "abc"]
    metrics = rates(rows)
    assert metrics["asr"].value == 0.0
    assert metrics["dg_other_aq"].value == 0.0
    assert metrics["incoherent"].value == 1.0


def test_a_metric_whose_group_was_not_asked_is_absent() -> None:
    metrics = rates([response("bare", "a", Judgement.HARMFUL)])
    assert set(metrics) == {"asr_bare", "incoherent"}


def test_over_refusal_counts_refusals_of_safe_prompts() -> None:
    rows = [response("harmless", "a", Judgement.REFUSED), response("harmless", "b", Judgement.BENIGN)]
    assert rates(rows)["over_refusal"].value == 0.5
    assert outcomes(rows, "over_refusal") == {"a": True, "b": False}


def test_judges_are_told_which_requests_are_harmful_and_see_the_prompt_without_the_suffix(llama: ChatModel) -> None:
    judge = FixedJudge(Judgement.REFUSED)
    measure(llama, SUITE, judge, arm="suffix", max_new_tokens=4, change_prompt=lambda text: f"{text} w99")
    assert judge.seen == [(("w1 w2 w10", "w1 w2 w11"), True), (("w1 w2 w12", "w1 w2 w13"), False)]


def test_a_suffix_reaches_the_model(llama: ChatModel) -> None:
    judge = FixedJudge(Judgement.BENIGN)
    plain = measure(llama, SUITE, judge, arm="vanilla", max_new_tokens=6)
    changed = measure(llama, SUITE, judge, arm="suffix", max_new_tokens=6, change_prompt=lambda text: f"{text} w99 w98")
    assert [one.answer for one in plain.responses] != [one.answer for one in changed.responses]


def test_the_unedited_model_has_not_drifted_and_an_edited_one_has(llama: ChatModel) -> None:
    meter = DriftMeter(llama, [Demonstration(prompt("w20", Kind.HARMLESS), "w1 w2 w3")], limit=8)
    assert meter.measure().divergence == (0.0,)
    assert meter.original() == meter.measure()
    with torch.no_grad():
        llama.sites[0].write_vectors()[3] += 1.0
    assert meter.measure().divergence[0] > 1e-4


def test_perplexity_is_the_exponential_of_the_mean_surprise(llama: ChatModel) -> None:
    kept = [Demonstration(prompt(f"w{n}", Kind.HARMLESS), "w1 w2 w3") for n in (20, 21, 22)]
    meter = DriftMeter(llama, kept, limit=8)
    measured = measure(llama, SUITE, FixedJudge(Judgement.BENIGN), arm="a", max_new_tokens=2, meter=meter)
    ids = [llama.prompt_ids(one.prompt.text) for one in kept]
    answer = llama.answer_ids("w1 w2 w3", ended=False)
    surprise = []
    for start in ids:
        with torch.no_grad():
            logits = llama.model(torch.tensor([[*start, *answer]])).logits[0]
        scores = logits.log_softmax(-1)[len(start) - 1 : -1]
        surprise.append(-float(scores[range(len(answer)), answer].mean()))
    assert measured.metrics["perplexity"].value == pytest.approx(math.exp(sum(surprise) / 3), rel=1e-4)


def test_arms_are_compared_on_the_prompts_that_both_answered() -> None:
    before = tuple(response("dg_other_aq", f"q{n}", Judgement.HARMFUL) for n in range(20))
    after = tuple(replace(row, judgement=Judgement.REFUSED.value) for row in before[:19])
    arms = {"vanilla": Measurement({}, before, None), "pke": Measurement({}, after, None)}
    (row,) = [row for row in compare_arms(arms, "vanilla", seed=0) if row.metric == "asr"]
    assert row.difference.value == -1.0
    assert row.difference.n == 19
    assert row.p_value == pytest.approx(2 * 0.5**19)


def test_the_suite_asks_safeedit_groups_with_what_each_may_share() -> None:
    attacks = [Attack(f"a{n}", "f", f"t{n} {{question}}") for n in range(4)]
    seen = [prompt(f"w{n}") for n in range(4)]
    pairs = [ContrastPair(attacks[0].apply(one), "no", "yes") for one in seen[:2]]
    pairs += [ContrastPair(one, "no", "yes") for one in seen[2:]]
    unseen = tuple(prompt(f"w{n}") for n in (30, 31))
    test = Split(unseen, tuple(attacks[2:]), (prompt("w40", Kind.HARMLESS),), (prompt("w41", Kind.BORDERLINE),))
    groups = make_suite(test, pairs, attacks[:2], EvaluateSettings()).groups
    assert [one.id for one in groups["ds"]] == ["w0+a0", "w1+a0"]
    assert [(one.id, one.attack) for one in groups["dg_only_q"]] == [("w0", None), ("w1", None)]
    assert {one.attack for one in groups["dg_other_a"]} <= {"a2", "a3"}
    assert {one.attack for one in groups["dg_other_q"]} <= {"a0", "a1"}
    assert {one.attack for one in groups["dg_other_aq"]} <= {"a2", "a3"}
    assert {one.question for one in groups["dg_other_aq"]} == {one.question for one in unseen}
