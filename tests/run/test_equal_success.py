"""The baselines' edits are scaled on held-out prompts only where that is asked for."""

from pathlib import Path

import pytest

from pkedit.edit.delta import Delta
from pkedit.run.pipeline import run
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import make_chat


@pytest.mark.parametrize("asked", [False, True])
def test_a_baseline_is_scaled_if_asked(asked: bool, tmp_path: Path) -> None:
    settings = RunSettings.model_validate({**SMALL, "arms": ["vanilla", "dinm", "ft"], "equal_success": asked})
    record = run(settings, tmp_path, until="edit", chat=make_chat(max_position_embeddings=2048))
    strengths = {arm: edit.strength for arm, edit in record.edits.items()}
    # Any strength reaches the target of these settings: the lowest is taken.
    assert strengths == dict.fromkeys(("dinm", "ft"), 0.46 if asked else None)


def test_scaling_is_all_that_changes(tmp_path: Path) -> None:
    chat = make_chat(max_position_embeddings=2048)
    for name, asked in (("usual", False), ("equal", True)):
        settings = RunSettings.model_validate({**SMALL, "arms": ["vanilla", "ft"], "equal_success": asked})
        run(settings, tmp_path / name, until="edit", chat=chat)
    usual, equal = (Delta.load(tmp_path / name / "arms" / "ft" / "delta.safetensors") for name in ("usual", "equal"))
    for mine, theirs in zip(equal.layers, usual.layers, strict=True):
        assert all(change.equal(theirs.change[part] * 0.46) for part, change in mine.change.items())
