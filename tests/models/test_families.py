"""Every architecture of the table goes all the way: found, proven, located, edited, saved, and loaded by others."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import EXPERTS, LAYERS, make_architecture
from pkedit.edit.editor import edit
from pkedit.export import opened
from pkedit.export.full import export_full
from pkedit.locate.causal import causal_check
from pkedit.locate.locating import locate
from pkedit.models.chat import ChatModel
from pkedit.models.experts import own_experts
from pkedit.models.families import FAMILIES
from pkedit.models.loading import assemble
from pkedit.run.record import new_record
from pkedit.settings import EditSettings, LocateSettings, RunSettings
from tiny import (
    SYSTEM_TEMPLATE,
    changed_weights,
    leftovers,
    make_demonstrations,
    make_pairs,
    make_tokenizer,
    snapshot,
)

# Other forms of an architecture, where its configuration decides what its layers are.
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("falcon", {"alibi": True}),
    ("gemma3", {}),
    ("gemma4_text", {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("llama4_text", {"interleave_moe_layer_step": 1, "num_experts_per_tok": 2}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    ("qwen3_moe", {"decoder_sparse_step": 1}),
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True}),
]
CASES = [*((name, {}) for name in sorted(FAMILIES)), *FORMS]
TEXTS = ["w1 w2 w3 w9 w8 w7", "w4", "w5 w6"]
LOCATE = LocateSettings(neurons=8, first_layer=0.0, last_layer=1.0, per_layer=4, precision="full", tokens=4)
# Attention that counts places by itself, and layers that remember something else than keys and values.
CANNOT_REUSE = {"lfm2", "mpt", "qwen3_5_text", "qwen3_next"}


def case_name(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value)) or "plain"


def make(family: str, config: dict[str, Any]) -> ChatModel:
    """What `load_model` makes of a model that was read from disk; its prompts begin alike."""
    chat = assemble(family, make_architecture(family, **config), make_tokenizer(), reason="test")
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    # Writing a model looks for garbage, and what the architecture has imported is none.
    gc.freeze()
    return chat


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(torch.arange(3, 14)[None]).logits
    return result


@pytest.mark.parametrize(("family", "config"), CASES, ids=case_name)
def test_it_goes_all_the_way(
    family: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = make(family, config)
    before, plain = snapshot(chat.model), logits(chat.model)
    assert {site.layer for site in chat.sites} == set(range(chat.layers))
    assert (chat.cannot_reuse is not None) == (family in CANNOT_REUSE)

    # The head and, where there are experts, our way of calling them.
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        assert torch.allclose(chat.head(chat.body(input_ids=ids).last_hidden_state), plain, atol=1e-5)
        with own_experts(chat.model):
            torch.testing.assert_close(chat.model(ids).logits, plain, rtol=1e-4, atol=1e-4)

    assert chat.generate(TEXTS, max_new_tokens=5) == [chat.generate([text], max_new_tokens=5)[0] for text in TEXTS]

    pairs, kept = make_pairs(3), make_demonstrations(3)
    located = locate(chat, pairs, kept, LOCATE)
    region = located.region
    assert len(region) == 8
    assert all(len(totals) == chat.layers for totals in region.layer_totals.values())
    assert len(located.layer_weight_change) == chat.layers
    check = causal_check(
        chat,
        region,
        located.means,
        located.margin,
        located.harmless,
        random_regions=1,
        first_tokens=1,
        first_weight=2.0,
        tokens_per_batch=200,
        seed=0,
    )
    assert abs(check.effect) + abs(check.harmless_effect) > 0

    for frozen in (True, False):
        settings = EditSettings(steps=2, pairs_per_step=2, demonstrations_per_step=2, frozen_prompts=frozen)
        result = edit(chat, region, pairs, kept, settings)
        assert result.history[1].safe < result.history[0].safe + 5.0
        assert (result.prompts_not_frozen is not None) == (frozen and family in CANNOT_REUSE)
        assert changed_weights(chat.model, before) == []
    delta = result.delta
    assert len(delta) == 8
    with delta.applied_to(chat):
        edited = logits(chat.model)
        assert changed_weights(chat.model, before) != []
    assert not torch.allclose(edited, plain, atol=1e-3)
    assert changed_weights(chat.model, before) == []
    assert torch.equal(logits(chat.model), plain)
    assert leftovers(chat.model) == []

    loaded = exported(chat, delta, tmp_path, monkeypatch)
    torch.testing.assert_close(logits(loaded), edited, rtol=1e-4, atol=1e-4)


def exported(chat: ChatModel, delta: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The edited model as plain transformers loads it from what `export_full` has written."""
    run = folder / "run"
    run.mkdir()
    new_record(RunSettings(model=chat.name)).save(run)
    delta.save(run / "delta.safetensors")
    monkeypatch.setattr(opened, "load_model", lambda *_, **__: chat)
    # Its own check needs the tokenizer that the family comes with; the logits are compared by who calls this.
    destination = export_full(run, folder / "model", check=False)
    assert AutoTokenizer.from_pretrained(destination).chat_template
    return AutoModelForCausalLM.from_pretrained(destination, dtype=torch.float32)


def test_families_with_experts_have_a_site_for_each() -> None:
    chat = make("qwen2_moe", {})
    assert len(chat.sites) == LAYERS * (1 + EXPERTS)
    assert chat.layers == len(chat.blocks) == LAYERS
    assert chat.neurons == LAYERS * (24 + EXPERTS * 16)
    assert [site.expert for site in chat.sites_of(1)] == [None, 0, 1, 2, 3]
    assert chat.places[1, 2] is chat.sites_of(1)[3]
