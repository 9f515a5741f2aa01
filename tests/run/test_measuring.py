"""A run finds missing judges and tasks before its work, and win rates stand beside the other figures of each arm."""

from pathlib import Path

import pytest

from fake_openai import FakeOpenAI
from pkedit.errors import PkeditError
from pkedit.run.pipeline import run
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from tiny import make_chat

SETTINGS = {
    "pairs": 6,
    "demonstrations": 6,
    "sampled_tokens": 4,
    "locate": {"pairs": 4, "demonstrations": 4, "neurons": 3, "tokens": 4, "random_regions": 2, "causal_pairs": 2},
    "edit": {"steps": 2, "pairs_per_step": 2, "demonstrations_per_step": 2, "safe_tokens": 4, "harmless_tokens": 4},
}
SIZES = {"seen": 1, "cross": 1, "unseen": 2, "harmless": 4, "borderline": 2, "max_new_tokens": 4}


class Stages:
    """Remembers which stages began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, name: str) -> None:
        self.begun.append(name)

    def step(self, done: int, total: int, note: str = "") -> None: ...


@pytest.mark.parametrize("wrong", [{"judges": ["rule"]}, {"capability": ["evryday"]}])
def test_a_judge_or_task_that_does_not_exist_is_found_before_any_work(
    wrong: dict[str, list[str]], tmp_path: Path
) -> None:
    seen = Stages()
    settings = RunSettings.model_validate({**SETTINGS, "evaluate": {**SIZES, **wrong}})
    chat = make_chat(max_position_embeddings=2048)
    with pytest.raises(PkeditError, match=r"rule|evryday"):
        run(settings, tmp_path / "run", observer=seen, chat=chat)
    assert seen.begun == []
    # Nothing was finished under the mistake, so the folder takes the mended settings.
    mended = RunSettings.model_validate({**SETTINGS, "evaluate": {**SIZES, "capability": [], "judges": ["rules"]}})
    assert run(mended, tmp_path / "run", chat=chat, until="locate").settings == mended


def test_win_rates_of_each_arm_come_from_the_judge_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with FakeOpenAI(answer=lambda _: "Both are short.\nVerdict: 1") as server:
        sizes = {**SIZES, "capability": [], "judges": ["rules"], "win_rate_judge": "some-judge"}
        settings = RunSettings.model_validate({**SETTINGS, "judge_api_base": server.url, "evaluate": sizes})
        record = run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
        sent = len(server.seen)
        again = run(settings, tmp_path / "run", chat=make_chat(max_position_embeddings=2048))
        assert len(server.seen) == sent
    # A judge that always takes the first answer prefers neither model.
    assert record.metrics["pke"]["win_rate_raw"].value == 0.5
    assert record.metrics["pke"]["win_rate"].value == pytest.approx(0.5)
    assert "win_rate" not in record.metrics["vanilla"]
    assert again.metrics == record.metrics
    assert RunRecord.load(tmp_path / "run").stages.keys() >= {"win rate pke"}
