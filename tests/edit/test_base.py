"""A delta knows what kind of model it was made for, also from its file, and refuses another by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pkedit.edit.base import BaseFacts, base_facts
from pkedit.edit.delta import Delta, LayerDelta
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel
from tiny import TEMPLATE, assemble, changed_weights, make_chat, make_model, make_region, snapshot


def random_delta(chat: ChatModel) -> Delta:
    hooked = HookedDelta(chat, make_region({1: [2, 5]}), ("write", "read0"))
    for free in hooked.free.values():
        free.data.normal_(generator=torch.Generator().manual_seed(0))
    return hooked.freeze()


def test_the_facts_of_its_base_come_back_from_the_file(tmp_path: Path) -> None:
    chat = make_chat("llama")
    random_delta(chat).save(tmp_path / "delta.safetensors")
    loaded = Delta.load(tmp_path / "delta.safetensors")
    assert loaded.made_for == base_facts(chat)
    assert loaded.made_for.vocabulary == len(chat.model.get_input_embeddings().weight)
    assert loaded.made_for.architecture == "llama"
    assert (loaded * 0.5).made_for == (loaded + loaded).made_for == loaded.made_for


def test_another_vocabulary_is_named_and_the_model_left_alone(tmp_path: Path) -> None:
    random_delta(make_chat("llama")).save(tmp_path / "delta.safetensors")
    other = assemble(make_model("llama", vocab_size=300))
    before = snapshot(other.model)
    with pytest.raises(DeltaError, match=r"another model than tiny: tiny has vocabulary of 209 tokens, not 300"):
        Delta.load(tmp_path / "delta.safetensors").apply(other)
    assert changed_weights(other.model, before) == []


def test_another_chat_template_is_named_with_the_option_that_gives_one() -> None:
    chat = make_chat("llama")
    delta = random_delta(chat)
    chat.tokenizer.chat_template = TEMPLATE + " "
    with pytest.raises(DeltaError, match=r"chat template .*--chat-template"), delta.applied_to(chat):
        pass
    chat.tokenizer.chat_template = TEMPLATE
    with delta.applied_to(chat):
        pass


def test_another_architecture_of_the_same_shape_is_named() -> None:
    with pytest.raises(DeltaError, match="architecture llama, not mistral"):
        random_delta(make_chat("llama")).apply(make_chat("mistral"))


def test_a_file_without_the_facts_still_loads_and_applies(tmp_path: Path) -> None:
    chat = make_chat("llama")
    delta = replace(random_delta(chat), made_for=None)
    delta.save(tmp_path / "delta.safetensors")
    with safe_open(tmp_path / "delta.safetensors", "pt") as file:
        assert "made_for" not in file.metadata()
    loaded = Delta.load(tmp_path / "delta.safetensors")
    assert loaded.made_for is None
    with loaded.applied_to(chat):
        pass


def test_unknown_facts_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    facts = base_facts(make_chat("llama"))
    assert BaseFacts.from_json(facts.to_json()) == facts
    with pytest.raises(DeltaError, match="unknown: colour"):
        BaseFacts.from_json(json.dumps({**json.loads(facts.to_json()), "colour": "red"}))
    path = tmp_path / "delta.safetensors"
    header = {"format": "pkedit-delta", "schema_version": "1", "made_for": '{"hidden": 3}'}
    save_file({"layers.0.neurons": torch.zeros(1, dtype=torch.int64)}, path, header)
    with pytest.raises(DeltaError, match="damaged"):
        Delta.load(path)


def test_edits_of_different_models_are_not_added() -> None:
    first, second = random_delta(make_chat("llama")), random_delta(make_chat("llama", layers=3))
    with pytest.raises(DeltaError, match="2 layers, not 3"):
        _ = first + second


def test_a_delta_of_the_right_kind_but_other_weights_is_still_refused() -> None:
    with pytest.raises(DeltaError, match="not those this delta was made for"):
        random_delta(make_chat("llama")).apply(make_chat("llama", seed=1))
    assert isinstance(random_delta(make_chat("llama")).layers[0], LayerDelta)
