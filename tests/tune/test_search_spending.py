"""What remote judges of a search may cost is known before it begins: every trial, the unedited model, the final run."""

from pathlib import Path

import pytest

from pkedit.run.data import read_splits
from pkedit.run.spending import run_spending
from pkedit.settings import RunSettings
from pkedit.tune.scoring import select_suite
from pkedit.tune.spending import search_spending


def judged_by(settings: RunSettings, *judges: str) -> RunSettings:
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"judges": judges})})


def test_every_trial_is_paid_for_and_the_run_at_the_end(
    tmp_path: Path, tune_settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = judged_by(tune_settings, "remote:openai:gpt-4o-mini", "rules")
    asked = len(select_suite(read_splits(settings).select, settings).prompts)
    of_search, *of_run = search_spending(settings, tmp_path / "chosen", 9)
    assert of_search.requests == 10 * asked
    assert of_run == run_spending(settings, tmp_path / "chosen")
    assert of_run[0].requests > 0


def test_judges_nearby_and_those_that_no_trial_asks_cost_a_search_nothing(
    tmp_path: Path, tune_settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search_spending(tune_settings, tmp_path, 9) == []
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    later = judged_by(tune_settings, "rules", "remote:openai:gpt-4o-mini")
    assert search_spending(later, tmp_path, 9) == run_spending(later, tmp_path)
