"""From the command line: models in fewer bits, models with code of their own, and deltas of other models."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pkedit.cli import main
from pkedit.edit.hooked import HookedDelta
from pkedit.models import load_model
from pkedit.options import run_settings
from pkedit.run.record import RunRecord
from test_cli import SETTINGS
from tiny import TEMPLATE, make_region, save_chat

SHAPE: dict[str, Any] = {"hidden": 64, "neurons": 128, "max_position_embeddings": 2048}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return path


def test_the_options_are_settings() -> None:
    assert run_settings().trust_remote_code is False
    assert run_settings().quantisation is None
    given = run_settings(trust_remote_code=True, load_in="8bit")
    assert (given.trust_remote_code, given.quantisation) == (True, "8bit")


def test_another_number_of_bits_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", save_chat(tmp_path / "model"), "--load-in", "3bit", "--out", tmp_path / "run") == 2
    assert "setting quantisation: input should be '4bit' or '8bit', got '3bit'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_message_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("locate", save_chat(tmp_path / "model"), "--load-in", "4bit", "--out", tmp_path / "run") == 2
    assert "pip install 'pkedit[bitsandbytes]'" in capsys.readouterr().err


def test_a_delta_of_another_model_is_refused_before_anything_is_asked(
    tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_model(str(save_chat(tmp_path / "base", **SHAPE)))
    HookedDelta(base, make_region({1: [2, 5]}), ("write",)).freeze().save(tmp_path / "delta.safetensors")
    other = save_chat(tmp_path / "other", chat_template=TEMPLATE + " ", **SHAPE)
    out = tmp_path / "run"
    command = ("evaluate", other, "--settings", settings, "--delta", tmp_path / "delta.safetensors", "--out", out)
    assert call(*command) == 2
    assert "has chat template" in capsys.readouterr().err
    assert not any(stage.startswith("measure") for stage in RunRecord.load(out).stages)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_a_whole_run_on_quantised_weights_and_its_export(
    tmp_path: Path, settings: Path, quantisation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save_chat(tmp_path / "base", **SHAPE), tmp_path / "run"
    command = ("run", base, "--settings", settings, "--load-in", quantisation, "--device", "cpu", "--out", out)
    assert call(*command) == 0
    record = RunRecord.load(out)
    assert {"asr", "kl", "perplexity", "capability"} <= record.metrics["pke"].keys()
    assert record.metrics["pke"]["kl"].value > 0
    assert "by bitsandbytes" in (record.model_note or "")
    assert call("export", out, "--to", tmp_path / "refused") == 2
    assert "--base MODEL" in capsys.readouterr().err
    assert call("export", out, "--to", tmp_path / "exported", "--base", base) == 0
    assert "differ by at most" in " ".join(capsys.readouterr().out.split())
    exported, plain = (load_model(str(path)).sites for path in (tmp_path / "exported", base))
    moved = sum(
        not torch.equal(one.write_vectors(), other.write_vectors()) for one, other in zip(exported, plain, strict=True)
    )
    assert moved > 0
