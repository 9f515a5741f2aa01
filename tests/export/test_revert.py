"""An edited model and its delta give the base back, bit for bit; anything else is refused."""

from pathlib import Path

import pytest
import torch
from edited import make_run, plain, save_model, state
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from checkpoints import write_gguf
from pkedit.edit.delta import Delta
from pkedit.errors import DeltaError, RunFolderError
from pkedit.export.adapter import export_adapter
from pkedit.export.delta import export_delta
from pkedit.export.full import export_full
from pkedit.export.revert import revert
from tiny import save_chat


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("family", "dtype"), [("gpt2", "float16"), ("qwen3_moe", "bfloat16")])
def test_the_base_comes_back_bit_for_bit(tmp_path: Path, family: str, dtype: str) -> None:
    model = save_model(tmp_path / "base", family)
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(model)
    folder, _ = make_run(tmp_path / "run", model, dtype=dtype)
    edited = export_full(folder, tmp_path / "edited", check=False)
    assert not same(state(edited), state(model))
    neurons = revert(edited, folder / "delta.safetensors", tmp_path / "reverted")
    assert neurons == len(Delta.load(folder / "delta.safetensors"))
    assert same(state(tmp_path / "reverted"), state(model))
    assert state(tmp_path / "reverted")["lm_head.weight"].dtype == getattr(torch, dtype)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "reverted" / name).read_bytes() == (model / name).read_bytes()


def test_so_it_does_from_a_merged_adapter(tmp_path: Path) -> None:
    dtype = "bfloat16"
    model = save_chat(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(model)
    folder, _ = make_run(tmp_path / "run", model, dtype=dtype)
    adapter = export_adapter(folder, tmp_path / "adapter")
    merged = save_chat(tmp_path / "merged")
    PeftModel.from_pretrained(plain(model), adapter).merge_and_unload().save_pretrained(merged)
    revert(merged, folder / "delta.safetensors", tmp_path / "reverted")
    assert same(state(tmp_path / "reverted"), state(model))


def test_what_is_not_base_and_delta_is_refused(tmp_path: Path) -> None:
    model = save_chat(tmp_path / "base")
    folder, _ = make_run(tmp_path / "run", model)
    delta = folder / "delta.safetensors"
    edited = export_full(folder, tmp_path / "edited", check=False)
    with pytest.raises(DeltaError, match="holds the original weights: the model is not edited"):
        revert(model, delta, tmp_path / "reverted")
    (Delta.load(delta) * 0.5).save(tmp_path / "half.safetensors")
    with pytest.raises(DeltaError, match="the weights are not base \\+ delta, bit for bit"):
        revert(edited, tmp_path / "half.safetensors", tmp_path / "reverted")
    plain(edited).to(torch.bfloat16).save_pretrained(edited)
    with pytest.raises(DeltaError, match=r"not base \+ delta.*converted"):
        revert(edited, delta, tmp_path / "reverted")
    with pytest.raises(DeltaError, match=r"no neurons where layers\.1 is changed"):
        revert(save_chat(tmp_path / "short", layers=1), delta, tmp_path / "reverted")
    assert not (tmp_path / "reverted").exists()
    with pytest.raises(RunFolderError, match="not empty"):
        revert(edited, delta, model)


def test_of_two_edits_the_second_comes_out_first_and_their_sum_does_not(tmp_path: Path) -> None:
    model = save_chat(tmp_path / "base")
    one, _ = make_run(tmp_path / "one", model, dtype="bfloat16")
    AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16").save_pretrained(model)
    once = export_full(one, tmp_path / "once", check=False)
    two, _ = make_run(tmp_path / "two", once, dtype="bfloat16")
    twice = export_full(two, tmp_path / "twice", check=False)
    first, second = (folder / "delta.safetensors" for folder in (one, two))
    (Delta.load(first) + Delta.load(second)).save(tmp_path / "sum.safetensors")
    with pytest.raises(DeltaError, match=r"edited twice .take the second delta out, then the first, not their sum"):
        revert(twice, tmp_path / "sum.safetensors", tmp_path / "base-again")
    revert(twice, second, tmp_path / "once-again")
    assert same(state(tmp_path / "once-again"), state(once))
    revert(tmp_path / "once-again", first, tmp_path / "base-again")
    assert same(state(tmp_path / "base-again"), state(model))


def test_a_model_of_another_shape_is_named(tmp_path: Path) -> None:
    source, whole = write_gguf(tmp_path / "model.gguf"), save_chat(tmp_path / "whole", hidden=32, neurons=32)
    folder, _ = make_run(tmp_path / "run", source)
    edited = export_full(folder, tmp_path / "edited", base=str(whole), check=False)
    delta = export_delta(folder, tmp_path / "delta", base=str(whole)) / "delta.safetensors"
    with pytest.raises(DeltaError, match=r"another model: .* has 2 layers, not 3"):
        revert(save_chat(tmp_path / "other", hidden=32, neurons=32, layers=3), delta, tmp_path / "reverted")
    revert(edited, delta, tmp_path / "reverted")
    assert same(state(tmp_path / "reverted"), state(whole))
