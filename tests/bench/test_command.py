"""`pkedit bench` from its options to its files, on tiny models."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pkedit.bench import random_models
from pkedit.bench.command import BenchOptions, bench
from pkedit.bench.printing import print_bench
from pkedit.bench.random_models import build_shape, stand_in_tokenizer
from pkedit.bench.result import BenchResult
from pkedit.bench.shapes import SHAPES, Shape
from pkedit.bench.workbench import Sizes
from pkedit.errors import ModelLoadError, PkeditError
from tiny import save_chat

SIZES = Sizes(
    located=(2, 2),
    edited=(2, 2),
    answered=(4, 4),
    batches=(2, 4),
    growing_pairs=(2, 4),
    growing_tokens=(16, 24),
    whole=(2, 2, 2),
)
TINY = Shape("llama", 32, 48, 3, 4, 2, 256)


def printed(result: BenchResult) -> str:
    output = io.StringIO()
    print_bench(result, Console(file=output, width=160))
    return output.getvalue()


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(random_models, "SHAPES", {"tiny": TINY})
    return "tiny"


def test_a_loaded_model_is_measured_printed_and_written_down(tmp_path: Path) -> None:
    model = save_chat(tmp_path / "model", max_position_embeddings=2048)
    options = BenchOptions(model=str(model), repeats=1, device="cpu")
    text = printed(bench(options, json_file=tmp_path / "bench.json", growth_file=tmp_path / "growth.svg", sizes=SIZES))
    for words in ("locate: time ÷ plain pass", "generate: speed ÷ transformers'", "edit, by pairs", "TFLOP/s", "torch"):
        assert words in text
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in content["stages"]] == ["locate", "edit", "instance", "generate", "growth"]
    assert content["hardware"]["threads"] >= 1
    assert content["versions"]["torch"]
    ratio = content["stages"][0]["ratios"][0]
    assert ratio["target"] == 1.3
    assert ratio["holds"] is (ratio["value"] <= 1.3)
    assert (tmp_path / "growth.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")


def test_a_random_model_of_a_shape_is_measured_end_to_end(tiny_shape: str) -> None:
    options = BenchOptions(shape=tiny_shape, layers=2, prompt_tokens=20, stages=("whole",), device="cpu")
    result = bench(options, sizes=SIZES)
    text = printed(result)
    assert "locate + edit of 2 steps: " in text
    assert "(target 60 s, 24 GB on an H200-class card)" in text
    assert "prompts of 20 tokens" in text
    assert result.layers == 2


def test_a_shape_has_the_sizes_of_its_table_and_the_asked_dtype(tiny_shape: str) -> None:
    chat = build_shape(tiny_shape, device="cpu", dtype="bfloat16")
    assert (chat.layers, chat.sites[0].neurons, chat.sites[0].hidden) == (3, 48, 32)
    assert {str(weight.dtype) for weight in chat.model.parameters()} == {"torch.bfloat16"}
    assert len(stand_in_tokenizer()) <= min(shape.vocabulary for shape in SHAPES.values())


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (BenchOptions(stages=("fly",)), "unknown stage 'fly'"),
        (BenchOptions(layers=2), "--layers belongs to --shape"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(options: BenchOptions, fragment: str) -> None:
    with pytest.raises(PkeditError, match=fragment):
        bench(options)


def test_other_mistakes_are_told_too(tmp_path: Path) -> None:
    with pytest.raises(PkeditError, match=r"ends in \.svg"):
        bench(BenchOptions(), growth_file=tmp_path / "growth.png")
    with pytest.raises(ModelLoadError, match="unknown shape 'llama9'"):
        build_shape("llama9")
    with pytest.raises(ModelLoadError, match="one device"):
        build_shape("llama3-8b", device="auto")
