"""Attention is found in every family by what it does, and not guessed where it is not clear."""

from typing import Any

import pytest
from torch import nn

from architectures import make_architecture_chat
from pkedit.models.mixers import find_mixers
from tiny import leftovers, make_chat

# The MLP beside it is one module or several, has matrices of its own, a router, or experts.
FAMILIES = ("deepseek_v3", "falcon", "gpt_oss", "granitemoe", "llama4_text", "mpt", "opt", "phi3", "qwen2_moe")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_one(family: str) -> None:
    chat = make_architecture_chat(family)
    mixers = find_mixers(chat)
    assert mixers is not None
    assert len(mixers) == chat.layers
    for layer, mixer in enumerate(mixers):
        inside = set(mixer.module.modules())
        assert mixer.write in inside
        assert not inside & {module for site in chat.sites_of(layer) for module in (site.write, site.input_module)}
    assert leftovers(chat.model) == []


@pytest.mark.parametrize(
    ("family", "paths"),
    [
        ("bloom", ["self_attention.dense"] * 2),
        ("gpt2", ["attn.c_proj"] * 2),
        ("gpt_neox", ["attention.dense"] * 2),
        ("lfm2", ["conv.out_proj", "self_attn.out_proj"]),
        ("llama", ["self_attn.o_proj"] * 2),
        ("qwen3_next", ["linear_attn.out_proj", "self_attn.o_proj"]),
    ],
)
def test_what_writes_is_its_last_matrix(family: str, paths: list[str]) -> None:
    chat = make_architecture_chat(family)
    mixers = find_mixers(chat)
    assert mixers is not None
    for block, mixer, path in zip(chat.blocks, mixers, paths, strict=True):
        assert mixer.write is block.get_submodule(path)


def test_a_layer_with_two_candidates_is_not_guessed() -> None:
    chat = make_chat()
    block: Any = chat.blocks[1]
    block.beside = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    assert find_mixers(chat) is None
