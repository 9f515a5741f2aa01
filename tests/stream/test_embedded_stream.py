"""A stream of two edits on the embedded model."""

from pathlib import Path

import pytest

import pkedit
from pkedit.edit.delta import Delta
from pkedit.stream.command import run_stream, take_out
from pkedit.stream.settings import StreamSettings


@pytest.mark.slow
def test_two_fixes_hold_and_harmless_answers_stay_near_what_they_were(tmp_path: Path) -> None:
    chat = pkedit.load_model("smollm2")
    settings = StreamSettings(edits=2, every=2, kept=12, prompts=4, drift=4, max_new_tokens=16)
    record = run_stream(settings, tmp_path, chat=chat)
    before, after = record.measured
    assert before.metrics["asr_bare"].value >= 0.5
    assert after.held == [1, 2]
    assert after.metrics["kl"].value < 0.1
    take_out(tmp_path, [1], chat=chat)
    total, other = Delta.load(tmp_path / "delta.safetensors"), Delta.load(tmp_path / "edits" / "0002.safetensors")
    assert len(total) == len(other) == 32
