"""What remote models may cost is said before anything is sent, and somebody has to agree above a limit."""

from pathlib import Path

import pytest

from pkedit.errors import NotAgreedError
from pkedit.judges.labelled import LabelledAnswer
from pkedit.run.record import RunRecord, StageRecord
from pkedit.run.spending import (
    ASKED_ABOVE,
    DEAREST,
    Spending,
    asked_of,
    judges_spending,
    labelled_spending,
    run_spending,
    too_dear,
)
from pkedit.running import watched
from pkedit.settings import EvaluateSettings, RunSettings

GPT_4 = "openai:gpt-4-0613"


def test_a_model_costs_its_prompts_and_the_longest_answers_at_list_price() -> None:
    (found,) = asked_of(GPT_4, None, 1000, 50, 100)
    assert (found.prompt_tokens, found.answer_tokens, found.known) == (50_000, 100_000, True)
    assert found.dollars == pytest.approx(50_000 * 30e-6 + 100_000 * 60e-6)
    assert "1,000 times, at most $7.50 (at list price)" in found.words()


def test_an_unknown_price_is_the_dearest_known_and_a_server_nearby_costs_nothing() -> None:
    (found,) = asked_of("openai:brand-new", None, 10, 50, 100)
    assert (found.price, found.known) == (DEAREST, False)
    assert "price is not known" in found.words()
    assert asked_of("any", "http://localhost:8000/v1", 10, 50, 100) == []


def test_local_models_and_judges_cost_nothing(tmp_path: Path) -> None:
    assert run_spending(RunSettings(), tmp_path) == []


def test_every_remote_part_of_a_run_is_counted_for_every_arm_that_is_not_measured_yet(tmp_path: Path) -> None:
    options = EvaluateSettings(judges=("rules", f"remote:{GPT_4}"), win_rate_judge=GPT_4)
    settings = RunSettings(arms=("vanilla", "pke"), evaluate=options)
    judged, compared = run_spending(settings, tmp_path)
    prompts = 6 + 6 + 6 + 6 + 72 + 72 + 96 + 34 + 72
    assert (judged.requests, compared.requests) == (2 * prompts, 2 * 96)
    record = RunRecord(settings=settings, stages={"measure vanilla": StageRecord(seconds=1, peak_memory=1)})
    record.save(tmp_path)
    assert run_spending(settings, tmp_path)[0].requests == prompts
    (alone,) = run_spending(RunSettings(model=GPT_4), tmp_path / "other")
    assert alone.requests == prompts
    assert alone.answer_tokens == prompts * 32


def test_the_default_prompts_are_asked_without_a_question(tmp_path: Path) -> None:
    assert too_dear(run_spending(RunSettings(model=GPT_4), tmp_path)) is None


def test_labelled_answers_are_read_as_often_as_asked() -> None:
    rows = [LabelledAnswer("q" * 44, "a" * 440, True)] * 10
    (found,) = labelled_spending(rows, ("rules", f"remote:{GPT_4}"), None, passes=2)
    assert found.requests == 20
    assert found.prompt_tokens > 20 * (10 + 100)
    assert judges_spending(("rules", "guard:X"), None, 10, 1, 1) == []


def test_what_is_dear_is_not_begun_unless_agreed() -> None:
    bill = [Spending("openai:x", 10**6, 10**9, 0, DEAREST, known=False)]
    begun: list[bool] = []

    def work(_: object) -> bool:
        begun.append(True)
        return True

    with pytest.raises(NotAgreedError, match=rf"above \${ASKED_ABOVE:.0f} somebody has to agree: add --yes"):
        watched(work, bill=lambda: bill)
    assert begun == []
    assert watched(work, bill=lambda: bill, yes=True)
