"""`pkedit check` says what a model is and what would not fit, from its configuration alone."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from checkpoints import EIGHT_BILLION
from pkedit.models.costs import Peaks
from pkedit.models.machine import Memory
from tiny import make_model, make_tokenizer, save_chat

GIB = 2**30
SEVENTY_BILLION = {
    **EIGHT_BILLION,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without GPUs that is known, and is not measured."""
    monkeypatch.setattr("pkedit.run.check.measure_peaks", lambda *_: Peaks(4e11, 5e10))
    monkeypatch.setattr("pkedit.run.check.memories", lambda: (Memory("cpu", "main memory", 24 * GIB, 32 * GIB),))
    monkeypatch.setattr("pkedit.run.check.free_disk", lambda _: 100 * GIB)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def invoke(invoke: Invoke) -> Invoke:
    """The same, of this command."""
    return partial(invoke, "check")


def folder_of(path: Path, config: dict[str, Any]) -> Path:
    """A folder with a configuration and a tokenizer, and no weights."""
    make_tokenizer().save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_model_that_fits_is_said_to_fit(tmp_path: Path, invoke: Invoke) -> None:
    code, output, errors = invoke(save_chat(tmp_path / "model"))
    assert (code, errors) == (0, "")
    for fragment in (
        "llama, in the table",
        "48 (24 in each of 2 layers)",
        "present",
        "not tied",
        "float32",
        "edit pke",
    ):
        assert fragment in output
    assert "Everything fits" in output


def test_weights_are_not_looked_for(tmp_path: Path, invoke: Invoke) -> None:
    make_model().config.save_pretrained(tmp_path)
    code, output, _ = invoke(tmp_path)
    assert code == 0
    assert "unknown" in output


def test_json_holds_the_same(tmp_path: Path, invoke: Invoke) -> None:
    code, output, _ = invoke(folder_of(tmp_path, EIGHT_BILLION), "--dtype", "bfloat16", "--json")
    content = json.loads(output)
    assert code == (0 if content["fits"] else 1)
    assert content["model"]["shape"]["parameters"] == 8_030_261_248
    assert content["model"]["neurons"] == 32 * 14336
    assert content["model"]["mlps"] == [{"neurons": 14336, "layers": 32, "experts": None}]
    assert content["model"]["chat_template"] is True
    assert content["place"]["dtype"] == "bfloat16"
    assert [stage["stage"] for stage in content["stages"]][:5] == ["load", "sample", "locate", "causal", "edit pke"]
    assert content["seconds"] == pytest.approx(sum(stage["seconds"] for stage in content["stages"]), abs=1)


def test_seventy_billion_parameters_do_not_fit(tmp_path: Path, invoke: Invoke) -> None:
    folder, started = folder_of(tmp_path, SEVENTY_BILLION), time.perf_counter()
    code, output, errors = invoke(folder, "--out", tmp_path / "run")
    assert time.perf_counter() - started < 20
    assert (code, errors) == (1, "")
    words = " ".join(output.split())
    assert "Problem: main memory:" in words
    assert "Problem: disk for the export: 262.8 GiB needed, 100.0 GiB free" in words
    assert "--dtype bfloat16" in words
    assert "a smaller model or a larger machine" in words


def test_what_would_help_is_said(tmp_path: Path, invoke: Invoke) -> None:
    code, output, _ = invoke(folder_of(tmp_path, EIGHT_BILLION))
    assert code == 1
    assert "It would fit with --dtype bfloat16" in output


def test_experts_are_counted_and_only_some_are_active(tmp_path: Path, invoke: Invoke) -> None:
    model = make_model("mixtral", num_local_experts=4, num_experts_per_tok=2)
    _, output, _ = invoke(folder_of(tmp_path, model.config.to_dict()))
    assert "4 in a layer, 2 for each token" in output
    assert "192 (4 experts of 24 in each of 2 layers)" in output


def test_a_model_without_mlps_is_not_supported(tmp_path: Path, invoke: Invoke) -> None:
    config = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 4}
    code, output, errors = invoke(folder_of(tmp_path, config))
    assert (code, errors) == (1, "")
    assert "mamba, not supported" in output
    assert "Problem: not supported:" in output


def test_a_model_without_a_chat_template_needs_one(tmp_path: Path, invoke: Invoke) -> None:
    folder = save_chat(tmp_path / "model", chat_template=None)
    code, output, _ = invoke(folder)
    assert code == 1
    assert "--chat-template" in output
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")
    assert invoke(folder, "--chat-template", template)[0] == 0


def test_what_is_not_estimated_is_said(tmp_path: Path, invoke: Invoke) -> None:
    folder = save_chat(tmp_path / "model")
    output = " ".join(invoke(folder, "--judges", "rules,guard:some/guard", "--tasks", "everyday,mmlu")[1].split())
    assert "not estimated: the tasks mmlu" in output
    assert "not estimated: the guard models guard:some/guard" in output


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["nobody/nothing"], "nobody/nothing"),
        (["absent.gguf"], "absent.gguf"),
        (["openai:some-model"], "behind an API"),
        (["MODEL", "--device", "cuda"], "no CUDA device"),
        (["MODEL", "--device", "tpu:x"], "tpu"),
        (["MODEL", "--dtype", "int3"], "int3"),
        (["MODEL", "--harmful", "absent.jsonl"], "absent.jsonl"),
        (["MODEL", "--pairs", "1"], "pairs"),
        (["MODEL", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, invoke: Invoke, arguments: list[str], fragment: str) -> None:
    model = str(folder_of(tmp_path, EIGHT_BILLION))
    code, output, errors = invoke(*(model if argument == "MODEL" else argument for argument in arguments))
    assert (code, output) == (2, "")
    assert errors.startswith("pkedit: ")
    assert errors.count("\n") == 1
    assert fragment in errors


def test_help_answers_at_once() -> None:
    code = (
        "import sys; from pkedit.cli import main\n"
        "try: main(['check', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "configuration only" in done.stdout
