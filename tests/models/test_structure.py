"""An architecture that nobody listed is understood by its structure, or refused with the way out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from architectures import make_architecture
from pkedit.errors import ModelLoadError
from pkedit.models import family as table
from pkedit.models import load_model
from pkedit.models.families import FAMILIES, Experts, Family, Mlp, gated
from pkedit.models.family import family_of, find_sites
from pkedit.models.loading import assemble
from pkedit.models.structure import family_by_structure
from pkedit.observer import Silent
from pkedit.options import run_settings
from pkedit.run.folder import RunFolder
from pkedit.run.stages import Stages
from pkedit.settings import RunSettings
from tiny import changed_weights, leftovers, make_tokenizer, save_chat, snapshot

# Nothing about Llama 4's experts shows how they are called.
BY_STRUCTURE = sorted(set(FAMILIES) - {"llama4_text"})


def unlisted(model_type: str, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Any:
    """A model of a listed architecture under a name that nobody knows."""
    model = make_architecture(model_type, **config)
    monkeypatch.setattr(type(model.config), "model_type", "mystery")
    return model


@pytest.mark.parametrize("family", BY_STRUCTURE)
def test_structure_finds_what_the_table_says(family: str) -> None:
    model = make_architecture(family)
    found = [
        (site.id, site.write, [(read.module, read.start, read.step) for read in site.reads], site.transposed)
        for site in find_sites(model, family_by_structure(model))
    ]
    assert found == [
        (site.id, site.write, [(read.module, read.start, read.step) for read in site.reads], site.transposed)
        for site in find_sites(model, FAMILIES[family])
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "gpt_oss", "deepseek_v3"])
def test_an_unknown_name_is_no_hindrance(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlisted(family, monkeypatch)
    chat = assemble("mystery", model, make_tokenizer(), reason="test")
    assert chat.layers == 2
    assert chat.generate(["w1"], max_new_tokens=2)


def test_the_last_norm_is_found_as_well() -> None:
    assert family_by_structure(make_architecture("gpt2")) == Family(
        (Mlp("mlp.c_proj", ("mlp.c_fc",), transposed=True),), blocks="h", norm="ln_f"
    )
    assert family_by_structure(make_architecture("gpt_oss")).experts == (
        Experts("mlp.experts", transposed=True, interleaved=True),
    )


def test_attention_as_wide_as_the_mlp_is_not_mistaken_for_it() -> None:
    # The output projection of four heads of four has an MLP's shape, and all others have the shape of its reads.
    model = make_architecture("llama", intermediate_size=16, num_key_value_heads=4, head_dim=4)
    assert model.model.layers[0].self_attn.o_proj.weight.shape == model.model.layers[0].mlp.down_proj.weight.shape
    assert family_by_structure(model) == Family((gated("mlp"),))


class Gated(nn.Module):
    """The older names of Llama's projections, which are listed in another order than they are called in."""

    def __init__(self) -> None:
        super().__init__()
        self.w3 = nn.Linear(32, 24, bias=False)
        self.w2 = nn.Linear(24, 32, bias=False)
        self.w1 = nn.Linear(32, 24, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.w2(nn.functional.silu(self.w1(states)) * self.w3(states))
        return output


def test_the_gate_is_told_from_the_other_projection_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlisted("llama", monkeypatch)
    for block in model.model.layers:
        block.mlp = Gated()
    chat = assemble("mystery", model, make_tokenizer(), reason="test")
    assert [site.reads[0].module for site in chat.sites] == [block.mlp.w1 for block in chat.blocks]


def test_a_gate_without_a_telling_name_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unnamed(Gated):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.w2(nn.functional.silu(self.w3(states)) * self.w1(states))
            return output

    model = unlisted("llama", monkeypatch)
    for block in model.model.layers:
        block.mlp = Unnamed()
    before = snapshot(model)
    with pytest.raises(ModelLoadError, match="is not the gate"):
        assemble("mystery", model, make_tokenizer(), reason="test")
    assert changed_weights(model, before) == []
    assert leftovers(model) == []


class Two(nn.Module):
    """A layer's MLP with a second one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Gated(), Gated()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.first(states) + self.second(states)
        return output


def test_two_candidates_are_refused_with_the_way_out_and_one_of_them_can_be_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = unlisted("llama", monkeypatch)
    for block in model.model.layers:
        block.mlp = Two()
    with pytest.raises(ModelLoadError, match=r"'mystery'.*layer 0 mlp\.first\.w2, mlp\.second\.w2.*--mlp-write"):
        assemble("mystery", model, make_tokenizer(), reason="test")
    chat = assemble("mystery", model, make_tokenizer(), reason="test", mlp_write="mlp.second.w2")
    assert [site.write for site in chat.sites] == [block.mlp.second.w2 for block in chat.blocks]


def test_an_mlp_as_wide_as_the_model_has_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlisted("llama", monkeypatch, intermediate_size=32)
    with pytest.raises(ModelLoadError, match=r"mlp\.gate_proj, mlp\.up_proj, mlp\.down_proj.*--mlp-write"):
        assemble("mystery", model, make_tokenizer(), reason="test")
    chat = assemble("mystery", model, make_tokenizer(), reason="test", mlp_write="mlp.down_proj")
    assert [site.reads[0].module for site in chat.sites] == [block.mlp.gate_proj for block in chat.blocks]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mlp.c_proj", r"no module at 'mlp\.c_proj'"),
        ("mlp.up_proj", "no matrix that leads to the hidden size, 32"),
        ("self_attn.o_proj", "no projection from 32 to 32 stands beside"),
        ("mlp.act_fn", "no matrix"),
    ],
)
def test_a_wrong_path_is_refused_with_its_reason(path: str, message: str) -> None:
    model = make_architecture("llama", num_key_value_heads=2)
    if path == "self_attn.o_proj":
        del model.model.layers[0].self_attn.q_proj
    with pytest.raises(ModelLoadError, match=message):
        family_of(model, path)


def test_attention_that_is_given_is_refused_by_the_probe() -> None:
    model = make_architecture("gpt_neox")
    for block in model.gpt_neox.layers:
        block.attention.more = nn.Linear(32, 32)
    with pytest.raises(ModelLoadError, match="layer 0"):
        assemble("tiny", model, make_tokenizer(), reason="test", mlp_write="attention.dense")


def test_a_layer_in_which_nothing_looks_like_an_mlp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlisted("llama", monkeypatch)
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(ModelLoadError, match="layer 1 nothing looks like"):
        assemble("mystery", model, make_tokenizer(), reason="test")


def test_a_model_without_a_list_of_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unlisted("llama", monkeypatch)
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelLoadError, match="no list of decoder layers"):
        assemble("mystery", model, make_tokenizer(), reason="test")


def test_the_path_reaches_the_model_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_chat(tmp_path / "model", neurons=16)
    monkeypatch.delitem(table.FAMILIES, "llama")
    with pytest.raises(ModelLoadError, match="--mlp-write"):
        load_model(str(folder))
    assert load_model(str(folder), mlp_write="mlp.down_proj").neurons == 32

    settings = RunSettings(model=str(folder), mlp_write="mlp.down_proj")
    with RunFolder.open(tmp_path / "run", settings) as run:
        assert Stages(run, settings, Silent(), None).chat.neurons == 32


def test_the_path_is_an_option_of_the_command_line() -> None:
    assert run_settings(mlp_write="mlp.down_proj").mlp_write == "mlp.down_proj"
    assert run_settings().mlp_write is None
