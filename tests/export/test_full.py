"""An exported model is an ordinary model folder: transformers loads it alone, with the logits of the edited model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import write_gguf
from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.errors import DeltaError, RunFolderError
from pkedit.export.full import export_full
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.run.record import RecordedMetric, new_record
from pkedit.settings import RunSettings
from tiny import TEMPLATE, save_chat


def random_delta(chat: ChatModel) -> Delta:
    """Changes of three neurons' write vectors and gates in the last layer."""
    site, neurons = chat.sites[-1], torch.tensor([1, 4, 9])
    generator = torch.Generator().manual_seed(0)
    original = {part: vectors(site, part)[neurons].detach().clone() for part in ("write", "read0")}
    change = {part: torch.randn(value.shape, generator=generator) for part, value in original.items()}
    return Delta((LayerDelta(len(chat.sites) - 1, neurons, change, original),), base=chat.name)


def make_run(folder: Path, model: Path, *, dtype: str | None = None) -> tuple[Path, Tensor]:
    """A run folder with a random edit, and the logits of the edited model."""
    chat = load_model(str(model), dtype=dtype)
    delta = random_delta(chat)
    record = new_record(RunSettings(model=str(model), dtype=dtype))
    record.metrics = {
        "vanilla": {"asr": RecordedMetric(value=0.9, n=72, low=0.81, high=0.95)},
        "pke": {"asr": RecordedMetric(value=0.1, n=72, low=0.05, high=0.19)},
    }
    folder.mkdir()
    record.save(folder)
    delta.save(folder / "delta.safetensors")
    with delta.applied_to(chat):
        return folder, logits(chat.model)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(torch.arange(3, 12)[None]).logits
    return result


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_plain_transformers_loads_it_with_equal_logits(tmp_path: Path, family: str, dtype: str | None) -> None:
    model = save_chat(tmp_path / "base", family=family)
    folder, edited = make_run(tmp_path / "run", model, dtype=dtype)
    destination = export_full(folder, tmp_path / "exports" / "model")
    loaded = AutoModelForCausalLM.from_pretrained(destination)
    assert torch.equal(logits(loaded), edited)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=loaded.dtype)
    assert not torch.equal(logits(base), edited)
    tokenizer = AutoTokenizer.from_pretrained(destination)
    message = [{"role": "user", "content": "w1 w2"}]
    expected = AutoTokenizer.from_pretrained(model).apply_chat_template(message, tokenize=False)
    assert tokenizer.apply_chat_template(message, tokenize=False) == expected
    assert any(path.suffix == ".safetensors" for path in destination.iterdir())
    assert [path.name for path in destination.parent.iterdir()] == ["model"]


def test_a_gguf_model_is_exported_as_a_plain_one(tmp_path: Path) -> None:
    folder, edited = make_run(tmp_path / "run", write_gguf(tmp_path / "base.gguf"))
    destination = export_full(folder, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(destination)
    assert torch.equal(logits(loaded), edited)
    assert "quantization_config" not in json.loads((destination / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(destination).chat_template == TEMPLATE


def test_the_card_tells_base_method_figures_and_limits(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    card = (export_full(folder, tmp_path / "model") / "README.md").read_text()
    assert card.startswith("---\n")
    assert "`base` with 3 MLP neurons" in card
    assert "| ASR % | 90.0 (81.0 to 95.0, n = 72) | 10.0 (5.0 to 19.0, n = 72) |" in card
    assert "## Limits" in card
    assert "## Licence" in card
    assert str(tmp_path) not in card


def test_a_destination_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    destination = tmp_path / "model"
    destination.mkdir()
    (destination / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not empty"):
        export_full(folder, destination)
    assert [path.name for path in destination.iterdir()] == ["thesis.txt"]
    (destination / "thesis.txt").unlink()
    assert (export_full(folder, destination) / "config.json").is_file()


def test_a_run_without_an_edit_is_refused(tmp_path: Path) -> None:
    new_record(RunSettings()).save(tmp_path)
    with pytest.raises(RunFolderError, match="no edit"):
        export_full(tmp_path, tmp_path / "model")


def test_another_base_model_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    save_chat(tmp_path / "base", seed=1)
    with pytest.raises(DeltaError, match="not those this delta was made for"):
        export_full(folder, tmp_path / "exports" / "model")
    assert list((tmp_path / "exports").iterdir()) == []
