"""The sites of a model are where its weights are, and the probe notices where they are not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from architectures import architecture, make_architecture
from pkedit.errors import ModelLoadError
from pkedit.models import family as table
from pkedit.models.chat import ChatModel
from pkedit.models.families import FAMILIES, Experts, Family, Mlp, gated
from pkedit.models.family import MlpSite, ReadMatrix, find_sites
from pkedit.models.probe import probe
from tiny import assemble, changed_weights, leftovers, make_chat, make_model, snapshot

# Llama's layout; Conv1D; one fused projection; experts by turns, transposed, with biases; shared ones, halves; scaled.
LAYOUTS = ("llama", "gpt2", "phi3", "gpt_oss", "deepseek_v3", "llama4_text")
FUSED = ("phi3", "gpt_oss", "mixtral", "llama4_text")


def sites_of(family: str) -> tuple[Any, tuple[MlpSite, ...]]:
    model = make_architecture(family)
    return model, find_sites(model)


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_neurons_write_vector_is_what_its_activation_adds(family: str) -> None:
    _, sites = sites_of(family)
    for site in sites:
        one = torch.zeros(1, site.neurons)
        with torch.no_grad():
            nothing = site.write(one)
            one[0, 5] = 1.0
            torch.testing.assert_close((site.write(one) - nothing)[0], site.write_vectors()[5])


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_neurons_read_vectors_give_its_pre_activations(family: str) -> None:
    _, sites = sites_of(family)
    for site in sites:
        entering = torch.randn(1, site.hidden, generator=torch.Generator().manual_seed(0))
        for which, read in enumerate(site.reads):
            with torch.no_grad():
                expected = entering @ site.read_vectors(which).T
                outputs = read.module(entering) - read.module(torch.zeros_like(entering))
                found = outputs[:, site.read_outputs(which, torch.arange(site.neurons))]
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", LAYOUTS)
def test_vectors_are_views_into_the_models_parameters(family: str) -> None:
    model, sites = sites_of(family)
    before = snapshot(model)
    with torch.no_grad():
        for site in sites:
            site.write_vectors()[3] = 7.0
            for which in range(len(site.reads)):
                site.read_vectors(which)[3] = 8.0
    changed = sum(int((weight != before[name]).sum()) for name, weight in model.named_parameters())
    assert changed == sum(site.hidden * (1 + len(site.reads)) for site in sites)


def test_sites_are_sorted_by_layer_with_the_mlp_of_all_tokens_first() -> None:
    _, sites = sites_of("deepseek_v3")
    assert [site.id for site in sites] == [(0, None), (1, None), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert sites[-1].name == "layer 1, expert 3"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_probe_rejects_rows_taken_for_columns_of_a_square_matrix(family: str) -> None:
    model = make_model(family, hidden=16, neurons=16)
    right = find_sites(model)
    probe(model, right)
    wrong = [replace(site, transposed=not site.transposed) for site in right]
    before = snapshot(model)
    with pytest.raises(ModelLoadError, match=r"zeroing write vectors differs|changed other neurons"):
        probe(model, wrong)
    assert changed_weights(model, before) == []
    assert leftovers(model) == []


def refused(family: str, change: Any, message: str, **config: Any) -> None:
    """The probe refuses all sites of a model as `change` leaves them, and leaves the model alone."""
    model = make_architecture(family, **config)
    right = find_sites(model)
    probe(model, right)
    before = snapshot(model)
    with pytest.raises(ModelLoadError, match=message):
        probe(model, [change(site) for site in right])
    assert changed_weights(model, before) == []
    assert leftovers(model) == []


def with_reads(site: MlpSite, *places: tuple[int, int]) -> MlpSite:
    module = site.reads[0].module
    return replace(site, reads=tuple(ReadMatrix(module, start, step) for start, step in places))


@pytest.mark.parametrize("family", FUSED)
def test_the_probe_rejects_halves_taken_for_turns_and_turns_for_halves(family: str) -> None:
    def swap(site: MlpSite) -> MlpSite:
        if site.reads[0].module is not site.reads[1].module:
            return site
        return with_reads(site, (0, 2), (1, 2)) if site.reads[0].step == 1 else with_reads(site, (0, 1), (12, 1))

    refused(family, swap, "changed other neurons", **({"intermediate_size": 12} if family == "gpt_oss" else {}))


@pytest.mark.parametrize("family", FUSED)
def test_the_probe_rejects_a_gate_taken_for_the_other_half(family: str) -> None:
    refused(family, lambda site: replace(site, reads=site.reads[::-1]), "is not the gate")


@pytest.mark.parametrize("family", FUSED)
def test_the_probe_rejects_outputs_that_two_neurons_claim(family: str) -> None:
    def twice(site: MlpSite) -> MlpSite:
        return replace(site, reads=(site.reads[0], replace(site.reads[1], start=site.reads[0].start)))

    def shared(site: MlpSite) -> MlpSite:
        return twice(site) if site.reads[0].module is site.reads[1].module else site

    refused(family, shared, "share outputs")


def test_the_probe_rejects_rows_shifted_by_one() -> None:
    def shifted(site: MlpSite) -> MlpSite:
        return with_reads(site, (1, 1), (site.neurons, 1))

    refused("phi3", shifted, r"share outputs|changed other neurons")


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_the_probe_rejects_square_experts_read_the_other_way_round(family: str) -> None:
    def turned(site: MlpSite) -> MlpSite:
        return replace(site, transposed=not site.transposed)

    # Square only where the fused projection is; the write matrix would betray itself otherwise.
    refused(family, turned, r"read weights of shape|zeroing write vectors|changed other", intermediate_size=32)


def test_the_probe_rejects_the_table_with_experts_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(FAMILIES["mixtral"], experts=(Experts("mlp.experts", interleaved=True),))
    monkeypatch.setitem(table.FAMILIES, "mixtral", wrong)
    model = make_architecture("mixtral")
    with pytest.raises(ModelLoadError, match="changed other neurons"):
        assemble(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_probe_rejects_experts_whose_forward_gives_other_logits() -> None:
    model = make_architecture("mixtral")
    sites = find_sites(model)
    for module in model.modules():
        if type(module).__name__ == "MixtralExperts":
            # Only our forward asks the module how gates are applied; its own has been told when it was made.
            module._apply_gate = lambda both: both[..., :24].relu() * both[..., 24:]
            module.config._experts_implementation = "eager"
    with pytest.raises(ModelLoadError, match="one by one"):
        probe(model, sites)


def test_the_probe_rejects_a_head_that_gives_other_logits() -> None:
    model = make_architecture("cohere")
    sites = find_sites(model)
    plain = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = scaled
    with pytest.raises(ModelLoadError, match="head does not give"):
        probe(model, sites)


def test_the_probe_rejects_matrices_whose_shapes_disagree(llama: ChatModel) -> None:
    wrong = [replace(site, reads=(ReadMatrix(site.block.self_attn.q_proj),)) for site in llama.sites]
    with pytest.raises(ModelLoadError, match="read weights of shape"):
        probe(llama.model, wrong)


def test_the_probe_rejects_neurons_that_do_not_reach_the_logits(llama: ChatModel) -> None:
    with torch.no_grad():
        llama.sites[1].write_weight.zero_()
    with pytest.raises(ModelLoadError, match=r"layer 1.*did not change"):
        probe(llama.model, llama.sites)


def test_the_probe_rejects_a_module_that_is_not_part_of_the_model(llama: ChatModel) -> None:
    site = llama.sites[0]
    stranger = MlpSite(0, site.block, nn.Linear(24, 16, bias=False), site.reads, transposed=False)
    with pytest.raises(ModelLoadError, match="did not change"):
        probe(llama.model, [stranger])


@pytest.mark.parametrize(
    "wrong",
    [
        Mlp("mlp.up_proj", ("mlp.gate_proj",)),
        Mlp("self_attn.k_proj", ("mlp.gate_proj", "mlp.up_proj")),
        Mlp("mlp.down_proj", ("mlp.down_proj",)),
        Mlp("mlp.c_proj", ("mlp.gate_proj", "mlp.up_proj")),
        Mlp("mlp.down_proj", ("mlp.gate_proj", "mlp.c_fc")),
        Mlp("mlp.down_proj", ("mlp.up_proj", "mlp.gate_proj")),
    ],
    ids=[
        "a read matrix as write",
        "attention as write",
        "the write matrix as read",
        "no such write matrix",
        "no such read matrix",
        "the gate as the other",
    ],
)
def test_a_wrong_entry_of_the_table_is_found_out(wrong: Mlp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FAMILIES, "llama", Family((wrong,)))
    with pytest.raises(ModelLoadError, match="layer 0"):
        make_chat("llama")


def test_a_layer_with_two_mlps_of_all_tokens_is_refused() -> None:
    model = make_architecture("qwen2_moe")
    model.model.layers[0].mlp.down_proj = nn.Linear(24, 32, bias=False)
    model.model.layers[0].mlp.gate_proj = model.model.layers[0].mlp.up_proj = nn.Linear(32, 24, bias=False)
    with pytest.raises(ModelLoadError, match="more than one MLP"):
        find_sites(model)


def test_decoder_layers_that_are_elsewhere_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FAMILIES, "llama", Family((gated("mlp"),), blocks="h"))
    with pytest.raises(ModelLoadError, match="decoder layers are not where"):
        make_chat("llama")


def test_a_module_without_a_plain_weight_is_refused(llama: ChatModel) -> None:
    class Packed(nn.Module):
        def weight(self) -> torch.Tensor:
            return torch.zeros(16, 24)

    with pytest.raises(ModelLoadError, match="quantised"):
        _ = replace(llama.sites[0], write=Packed()).neurons


def test_experts_without_plain_weights_are_refused() -> None:
    model = make_architecture("mixtral")
    experts = model.model.layers[0].mlp.experts
    del experts.gate_up_proj
    experts.gate_up_proj = nn.Parameter(torch.zeros(4, 10, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelLoadError, match="quantised"):
        find_sites(model)


def test_an_architecture_names_its_configuration_in_the_tests() -> None:
    assert all(architecture(name) is not None for name in FAMILIES)
