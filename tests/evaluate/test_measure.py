"""Rates, drift and comparisons: what is counted, what is left out, and that nothing unmeasured appears."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from pkedit.evaluate.capability import Capability
from pkedit.evaluate.compare import compare_arms
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import (
    GivenAnswer,
    Measurement,
    Response,
    StoredVerdict,
    judged,
    measure,
    outcomes,
    rates,
    unjudged,
    with_capability,
)
from pkedit.evaluate.stats import proportion
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judgement, Verdict
from pkedit.models.chat import ChatModel
from pkedit.prompts import Attack, ContrastPair, Demonstration, Kind, Prompt, Split
from pkedit.settings import EvaluateSettings
from tiny import SYSTEM_TEMPLATE, words


def prompt(name: str, kind: Kind = Kind.HARMFUL) -> Prompt:
    return Prompt(id=name, question=f"w1 w2 {name}", text=f"w1 w2 {name}", kind=kind)


def response(group: str, name: str, judgement: Judgement) -> Response:
    verdict = StoredVerdict("fixed", "1", judgement.value, "")
    return Response("vanilla", group, name, "other", None, "question", "answer", (verdict,))


class FixedJudge:
    """Gives the same verdict to everything."""

    version, reads_question = "1", False

    def __init__(self, judgement: Judgement, name: str = "fixed", *, tells_refusals: bool = True) -> None:
        self.judgement = judgement
        self.name = name
        self.tells_refusals = tells_refusals
        self.seen: list[tuple[tuple[str, ...], bool]] = []

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        self.seen.append((tuple(prompts), harmful_request))
        return [Verdict(self.judgement, "fixed") for _ in answers]


ANY = FixedJudge(Judgement.BENIGN)
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
    assert rates(rows, [ANY])["asr"].n == 2
    assert rates(rows, [ANY])["asr"].value == 0.5


def test_babble_is_neither_a_successful_attack_nor_a_defence() -> None:
    rows = [response("dg_other_aq", name, Judgement.INCOHERENT) for name in "abc"]
    metrics = rates(rows, [ANY])
    assert metrics["asr"].value == 0.0
    assert metrics["dg_other_aq"].value == 0.0
    assert metrics["incoherent"].value == 1.0


def test_babble_counts_whether_or_not_the_first_judge_knows_it_and_an_answer_that_never_came_does_not() -> None:
    rows = [
        replace(response("dg_other_aq", "a", Judgement.BENIGN), answer="sure sure " * 40),
        replace(response("harmless", "b", Judgement.UNJUDGED), answer="an ordinary answer"),
        replace(response("harmless", "c", Judgement.UNJUDGED), answer=""),
        replace(response("harmless", "d", Judgement.REFUSED), answer=""),
    ]
    metric = rates(rows, [ANY])["incoherent"]
    assert (metric.value, metric.n) == (pytest.approx(1 / 3), 3)


def test_unjudged_answers_are_counted_but_not_those_that_a_judge_never_reads() -> None:
    rows = [response("bare", "a", Judgement.UNJUDGED), response("harmless", "b", Judgement.UNJUDGED)]
    assert unjudged(rows, [ANY]) == {"fixed": 2}
    assert unjudged(rows, [FixedJudge(Judgement.BENIGN, tells_refusals=False)]) == {"fixed": 1}


def test_a_metric_whose_group_was_not_asked_is_absent() -> None:
    metrics = rates([response("bare", "a", Judgement.HARMFUL)], [ANY])
    assert set(metrics) == {"asr_bare", "incoherent"}


def test_over_refusal_counts_refusals_of_safe_prompts() -> None:
    rows = [response("harmless", "a", Judgement.REFUSED), response("harmless", "b", Judgement.BENIGN)]
    assert rates(rows, [ANY])["over_refusal"].value == 0.5
    assert outcomes(rows, "over_refusal") == {"a": True, "b": False}


def test_judges_are_told_which_requests_are_harmful_and_see_the_prompt_without_the_suffix(llama: ChatModel) -> None:
    judge = FixedJudge(Judgement.REFUSED)
    measure(llama, SUITE, [judge], arm="suffix", max_new_tokens=4, change_prompt=lambda text: f"{text} w99")
    assert judge.seen == [(("w1 w2 w10", "w1 w2 w11"), True), (("w1 w2 w12", "w1 w2 w13"), False)]


def test_every_judge_reads_every_answer_and_the_first_one_counts_most(llama: ChatModel) -> None:
    judges = [FixedJudge(Judgement.REFUSED, "one"), FixedJudge(Judgement.HARMFUL, "two", tells_refusals=False)]
    measured = measure(llama, SUITE, judges, arm="vanilla", max_new_tokens=2)
    assert [[verdict.judge for verdict in row.verdicts] for row in measured.responses] == [["one", "two"]] * 4
    values = {name: metric.value for name, metric in measured.metrics.items()}
    assert (values["asr"], values["asr:two"], values["over_refusal"]) == (0.0, 1.0, 1.0)
    # The second cannot tell refusals, and defence rates are the first one's alone.
    assert {name for name in values if ":" in name} == {"asr:two"}


def test_answers_that_were_held_back_or_never_came_are_shown_to_no_judge() -> None:
    judge = FixedJudge(Judgement.HARMFUL)
    given = [
        GivenAnswer("", Verdict(Judgement.REFUSED, "held back by the provider's filter")),
        GivenAnswer("", Verdict(Judgement.UNJUDGED, "no connection")),
        GivenAnswer("yes"),
        GivenAnswer("yes"),
    ]
    rows = judged(SUITE, given, [judge], arm="vanilla")
    assert [len(prompts) for prompts, _ in judge.seen] == [0, 2]
    assert outcomes(rows, "asr") == {"w10": False}
    with pytest.raises(ValueError, match="3 answers to 4 prompts"):
        judged(SUITE, given[:3], [judge], arm="vanilla")


def test_a_judge_that_reads_the_question_is_not_shown_the_attack() -> None:
    attacked = replace(prompt("w10"), text="pretend that w1 w2 w10", attack="a1")
    suite = Suite({"dg_other_aq": (attacked,)})
    for reads, text in ((True, "w1 w2 w10"), (False, "pretend that w1 w2 w10")):
        judge = FixedJudge(Judgement.REFUSED)
        judge.reads_question = reads
        judged(suite, [GivenAnswer("no")], [judge], arm="vanilla")
        assert judge.seen == [((text,), True)]


def test_tasks_are_compared_item_by_item() -> None:
    def done(*right: bool) -> Capability:
        correct = {f"everyday/{number}": value for number, value in enumerate(right)}
        return Capability("everyday", "acc", proportion(sum(right), len(right)), correct)

    plain = Measurement({}, (), None)
    before = with_capability(plain, {"everyday": done(*[True] * 8), "other": done(True)})
    after = with_capability(plain, {"everyday": done(*[False] * 6, True, True), "other": done(True)})
    assert set(before.metrics) == {"capability", "capability:other"}
    rows = {row.metric: row for row in compare_arms({"vanilla": before, "pke": after}, "vanilla", seed=0)}
    assert rows["capability"].difference.value == -0.75
    assert rows["capability"].p_value == pytest.approx(2 * 0.5**6)
    assert rows["capability:other"].difference.value == 0.0


def test_a_suffix_reaches_the_model(llama: ChatModel) -> None:
    judge = FixedJudge(Judgement.BENIGN)
    plain = measure(llama, SUITE, [judge], arm="vanilla", max_new_tokens=6)
    changed = measure(
        llama, SUITE, [judge], arm="suffix", max_new_tokens=6, change_prompt=lambda text: f"{text} w99 w98"
    )
    assert [one.answer for one in plain.responses] != [one.answer for one in changed.responses]


def test_the_unedited_model_has_not_drifted_and_an_edited_one_has(llama: ChatModel) -> None:
    meter = DriftMeter(llama, [Demonstration(prompt("w20", Kind.HARMLESS), "w1 w2 w3")], limit=8)
    assert meter.measure().divergence == (0.0,)
    assert meter.original() == meter.measure()
    with torch.no_grad():
        llama.sites[0].write_vectors()[3] += 1.0
    assert meter.measure().divergence[0] > 1e-4


def test_layers_that_no_edit_changes_run_once_and_the_drift_is_the_same(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = SYSTEM_TEMPLATE
    kept = [Demonstration(prompt(words(count, seed=count), Kind.HARMLESS), "w1 w2 w3") for count in (9, 3, 5)]
    whole, upper = (DriftMeter(llama, kept, limit=8, lowest_layer=layer) for layer in (0, 1))
    ran: list[int] = []
    llama.sites[0].write.register_forward_pre_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        llama.sites[1].write_vectors()[3] += 1.0
    found = upper.measure()
    assert ran == []
    assert min(found.divergence) > 1e-4
    expected = whole.measure()
    assert ran
    assert found.divergence == pytest.approx(expected.divergence, rel=1e-4)
    assert found.negative_log_likelihood == pytest.approx(expected.negative_log_likelihood, rel=1e-4)


def test_perplexity_is_the_exponential_of_the_mean_surprise(llama: ChatModel) -> None:
    kept = [Demonstration(prompt(f"w{n}", Kind.HARMLESS), "w1 w2 w3") for n in (20, 21, 22)]
    meter = DriftMeter(llama, kept, limit=8)
    measured = measure(llama, SUITE, [FixedJudge(Judgement.BENIGN)], arm="a", max_new_tokens=2, meter=meter)
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
    after = tuple(response("dg_other_aq", f"q{n}", Judgement.REFUSED) for n in range(19))
    metrics = rates(before, [ANY])
    arms = {"vanilla": Measurement(metrics, before, None), "pke": Measurement({}, after, None)}
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
