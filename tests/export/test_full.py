"""An exported model is an ordinary model folder: transformers loads it alone, with the logits of the edited model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edited import logits, make_run, plain, save_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import write_gguf
from pkedit.errors import DeltaError, ExportError, RunFolderError
from pkedit.export import full
from pkedit.export.full import export_full
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import TEMPLATE, make_model, make_tokenizer, save_chat


@pytest.mark.parametrize(("family", "dtype"), [("llama", "bfloat16"), ("gpt2", "float32"), ("mixtral", "float32")])
def test_plain_transformers_loads_it_with_the_logits_of_the_edit(tmp_path: Path, family: str, dtype: str) -> None:
    model = save_model(tmp_path / "base", family)
    folder, edited = make_run(tmp_path / "run", model, dtype=dtype)
    told: list[str] = []
    destination = export_full(folder, tmp_path / "exports" / "model", tell=told.append)
    loaded = plain(destination)
    # Experts are computed in another order without pkedit.
    tolerance = 1e-4 if family == "mixtral" else 0.0
    torch.testing.assert_close(logits(loaded), edited, rtol=0, atol=tolerance)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=loaded.dtype)
    assert (logits(base) - edited).abs().max() > 0.5
    assert len(told) == 1
    assert told[0].startswith("Checked on 8 prompts: ")
    assert [path.name for path in destination.parent.iterdir()] == ["model"]


def test_the_tokenizer_s_files_are_those_of_the_source_byte_for_byte(tmp_path: Path) -> None:
    model = save_chat(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        # As nobody's `save_pretrained` would write it.
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()), indent=7) + "\n\n")
    (model / "merges.txt").write_text("a relic\n")
    destination = export_full(make_run(tmp_path / "run", model)[0], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"):
        assert (destination / name).read_bytes() == (model / name).read_bytes()
    assert AutoTokenizer.from_pretrained(destination).chat_template == TEMPLATE


def test_a_given_chat_template_goes_along(tmp_path: Path) -> None:
    model = save_chat(tmp_path / "base", chat_template="of the source: {{ messages[0]['content'] }}")
    template = tmp_path / "mine.jinja"
    template.write_text(TEMPLATE)
    folder, _ = make_run(tmp_path / "run", model, chat_template=str(template))
    destination = export_full(folder, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(destination).chat_template == TEMPLATE


def test_a_gguf_model_is_exported_as_a_plain_one_with_its_tokenizer(tmp_path: Path) -> None:
    folder, edited = make_run(tmp_path / "run", write_gguf(tmp_path / "base.gguf"))
    destination = export_full(folder, tmp_path / "model")
    assert torch.equal(logits(plain(destination)), edited)
    assert "quantization_config" not in json.loads((destination / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(destination).chat_template == TEMPLATE


def test_tied_weights_are_saved_once_and_are_tied_again(tmp_path: Path) -> None:
    folder, edited = make_run(tmp_path / "run", save_chat(tmp_path / "base", tie_word_embeddings=True))
    destination = export_full(folder, tmp_path / "model")
    with safe_open(destination / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    loaded = plain(destination)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert torch.equal(logits(loaded), edited)


def test_a_large_model_is_saved_in_shards_that_all_may_read(tmp_path: Path) -> None:
    folder, edited = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    destination = export_full(folder, tmp_path / "model", max_shard_size="20KB")
    shards = sorted(destination.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert (destination / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(plain(destination)), edited)
    assert {path.stat().st_mode for path in shards} == {(destination / "config.json").stat().st_mode}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", [0, 1], ids=["the base itself", "another model"])
def test_what_is_not_the_edit_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, seed: int
) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"), dtype=dtype)

    class Another:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            return make_model(seed=seed).to(getattr(torch, dtype))

    monkeypatch.setattr(full, "AutoModelForCausalLM", Another)
    with pytest.raises(
        ExportError, match=r"the full model is not the edit, and nothing was written: .*layers\.0, read0"
    ):
        export_full(folder, tmp_path / "exports" / "model")
    assert list((tmp_path / "exports").iterdir()) == []
    export_full(folder, tmp_path / "exports" / "model", check=False)


def test_edited_weights_with_others_changed_beside_them_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))
    monkeypatch.setattr(full, "check_weights", lambda *_: None)
    monkeypatch.setattr(
        full, "AutoModelForCausalLM", type("Base", (), {"from_pretrained": lambda *_, **__: make_model()})
    )
    with pytest.raises(ExportError, match="the full model is not the edit, and nothing was written: its logits differ"):
        export_full(folder, tmp_path / "model")


def test_a_tokenizer_that_reads_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make_run(tmp_path / "run", save_chat(tmp_path / "base"))

    def other(_: Any, destination: Path, **__: Any) -> list[str]:
        make_tokenizer(chat_template="<user> " + TEMPLATE).save_pretrained(destination)
        return []

    monkeypatch.setattr(full, "write_tokenizer", other)
    with pytest.raises(ExportError, match="reads prompts otherwise"):
        export_full(folder, tmp_path / "model")


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
    assert not (tmp_path / "exports").exists()
