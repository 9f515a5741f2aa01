"""The table is right for every family it names, and the probe notices where it is wrong."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pkedit.errors import ModelLoadError
from pkedit.models import family as table
from pkedit.models.chat import ChatModel
from pkedit.models.family import FAMILIES, MlpSite, find_sites, probe
from tiny import changed_weights, leftovers, make_chat, make_model, snapshot


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_of_the_table_is_accepted(family: str) -> None:
    model = make_model(family, hidden=16, neurons=24)
    sites = find_sites(model)
    before = snapshot(model)
    probe(model, sites)
    assert [(site.layer, site.neurons, site.hidden) for site in sites] == [(0, 24, 16), (1, 24, 16)]
    assert changed_weights(model, before) == []
    assert leftovers(model) == []


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_neurons_write_vector_is_what_its_activation_adds(family: str) -> None:
    site = find_sites(make_model(family))[1]
    one = torch.zeros(1, site.neurons)
    with torch.no_grad():
        nothing = site.write(one)
        one[0, 5] = 1.0
        torch.testing.assert_close((site.write(one) - nothing)[0], site.write_vectors()[5])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_neurons_read_vectors_decide_its_activation_and_no_other(family: str) -> None:
    site = find_sites(make_model(family))[0]
    entering = torch.randn(1, 1, site.hidden, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    handle = site.write.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mlp = site.block.mlp
    with torch.no_grad():
        mlp(entering)
        for which in range(len(site.reads)):
            site.read_vectors(which)[5] += 1.0
            mlp(entering)
            site.read_vectors(which)[5] -= 1.0
    handle.remove()
    for after in seen[1:]:
        moved = (after != seen[0]).flatten().nonzero().flatten().tolist()
        assert moved == [5]


def test_vectors_are_views_into_the_model(chat: ChatModel) -> None:
    site = chat.sites[0]
    with torch.no_grad():
        site.write_vectors()[3] = 7.0
        site.read_vectors(0)[3] = 8.0
    weight = site.write_weight
    assert (weight[3] if site.transposed else weight[:, 3]).eq(7.0).all()
    reading = site.reads[0].weight
    assert (reading[:, 3] if site.transposed else reading[3]).eq(8.0).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_probe_rejects_rows_taken_for_columns_of_a_square_matrix(family: str) -> None:
    model = make_model(family, hidden=16, neurons=16)
    right = find_sites(model)
    probe(model, right)
    wrong = [replace(site, transposed=not site.transposed) for site in right]
    before = snapshot(model)
    with pytest.raises(ModelLoadError, match="zeroing write vectors differs"):
        probe(model, wrong)
    assert changed_weights(model, before) == []
    assert leftovers(model) == []


def test_the_probe_rejects_matrices_whose_shapes_disagree(llama: ChatModel) -> None:
    wrong = [replace(site, reads=(site.block.self_attn.q_proj,)) for site in llama.sites]
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
        {"write": "mlp.up_proj", "reads": ("mlp.gate_proj",)},
        {"write": "self_attn.k_proj"},
        {"reads": ("mlp.down_proj",)},
    ],
    ids=["a read matrix as write", "attention as write", "the write matrix as read"],
)
def test_a_wrong_line_in_the_table_is_found_out(wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FAMILIES, "llama", replace(FAMILIES["llama"], **wrong))
    with pytest.raises(ModelLoadError, match="layer 0"):
        make_chat("llama")


def test_a_module_path_that_does_not_exist_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FAMILIES, "llama", replace(FAMILIES["llama"], write="mlp.c_proj"))
    with pytest.raises(ModelLoadError, match="layer 0"):
        make_chat("llama")


def test_an_unknown_architecture_is_refused_by_name_with_the_known_ones(llama: ChatModel) -> None:
    llama.model.config.model_type = "mystery"
    with pytest.raises(ModelLoadError, match=r"'mystery' is not supported yet \(supported: .*llama.*family.py"):
        find_sites(llama.model)


def test_a_module_without_a_plain_weight_is_refused(llama: ChatModel) -> None:
    class Packed(nn.Module):
        def weight(self) -> torch.Tensor:
            return torch.zeros(16, 24)

    with pytest.raises(ModelLoadError, match="quantised"):
        _ = replace(llama.sites[0], write=Packed()).neurons
