"""Weights in 4 or 8 bits: copies that say what they are, a probe that proves it, and everything located beside them."""

from pathlib import Path

import pytest
import torch

from pkedit.edit.delta import vectors
from pkedit.errors import ModelLoadError
from pkedit.locate.causal import causal_check
from pkedit.locate.locating import locate
from pkedit.models import load_model
from pkedit.models.acting import acting
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.models.probe import probe
from pkedit.models.quantised import bits_of
from pkedit.settings import LocateSettings
from tiny import leftovers, make_chat, make_demonstrations, make_pairs, save_chat

# What a group of weights loses, of its length.
ERRORS = {"4bit": 0.12, "8bit": 0.02}
SHAPE = {"layers": 4, "hidden": 64, "neurons": 128, "initializer_range": 0.1}

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: weights in 4 or 8 bits were not tried")


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def quantisation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quantisation: str
) -> list[ChatModel]:
    """A quantised model and the one it was made of. GPT-2 stores [in, out], which is turned round."""
    folder = save_chat(tmp_path_factory.mktemp("models") / request.param, family=request.param, **SHAPE)
    return [load_model(str(folder), quantisation=quantisation, device="cpu"), load_model(str(folder), device="cpu")]


def test_it_says_what_it_is(both: list[ChatModel], quantisation: str) -> None:
    chat, plain = both
    assert chat.reason.endswith(f"linear layers in {quantisation[0]} bits by bitsandbytes (asked for)")
    assert {bits_of(site.write) for site in chat.sites} == {int(quantisation[0])}
    assert all(site.quantised for site in chat.sites)
    assert not any(site.quantised for site in plain.sites)
    assert chat.sizes == plain.sizes
    assert [site.hidden for site in chat.sites] == [site.hidden for site in plain.sites]
    assert chat.sites[0].device == torch.device("cpu")


@pytest.mark.parametrize("part", ["write", "read0"])
def test_vectors_are_copies_close_to_what_they_were(both: list[ChatModel], quantisation: str, part: str) -> None:
    for site, plain in zip(both[0].sites, both[1].sites, strict=True):
        copy, exact = vectors(site, part), vectors(plain, part)
        assert copy.dtype == torch.float32
        assert copy.shape == exact.shape == (128, 64)
        assert 0 < (copy - exact).norm() / exact.norm() < ERRORS[quantisation]
        copy.zero_()
        assert vectors(site, part).norm() > 0
    with pytest.raises(ModelLoadError, match="quantised, and nothing can be written to it"):
        _ = both[0].sites[0].write_parameter


def test_the_probe_finds_rows_taken_for_columns(both: list[ChatModel], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = both[0]
    probe(chat.model, chat.sites)
    kind = type(chat.sites[0])
    write, read = kind.write_vectors, kind.read_vectors
    for name, wrong, message in (
        ("write_vectors", lambda site: write(site).flip(0), "zeroing write vectors differs"),
        ("read_vectors", lambda site, which=0: read(site, which).flip(0), "does not give the module's outputs"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, wrong)
            with pytest.raises(ModelLoadError, match=message):
                probe(chat.model, chat.sites)
    assert leftovers(chat.model) == []


def test_a_change_beside_the_weights_is_the_change_of_the_weights(both: list[ChatModel]) -> None:
    """On plain weights, where both can be had."""
    chat = both[1]
    ids, some = torch.arange(3, 12)[None], torch.tensor([1, 5, 90])
    for part, which in (("write", None), ("read0", 0)):
        change = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), acting(chat.sites[1], which, some, change):
            beside = chat.model(ids, use_cache=False).logits
        with torch.no_grad():
            rows = vectors(chat.sites[1], part)
            kept = rows[some].clone()
            rows[some] += change
            written = chat.model(ids, use_cache=False).logits
            rows[some] = kept
        torch.testing.assert_close(beside, written, rtol=1e-4, atol=1e-4)


def test_most_of_the_region_is_that_of_the_plain_weights(both: list[ChatModel], quantisation: str) -> None:
    pairs, kept = make_pairs(6), make_demonstrations(6)
    settings = LocateSettings(neurons=24, first_layer=0.0, last_layer=1.0)
    found = [locate(chat, pairs, kept, settings) for chat in both]
    regions = [{neuron.id for neuron in one.region.neurons} for one in found]
    assert len(regions[0] & regions[1]) >= (12 if quantisation == "4bit" else 18)
    check = causal_check(
        both[0],
        found[0].region,
        found[0].means,
        found[0].margin,
        found[0].harmless,
        random_regions=2,
        first_tokens=3,
        first_weight=8.0,
        tokens_per_batch=1024,
        seed=0,
    )
    assert check.effect == check.effect


def test_steps_on_quantised_weights_are_refused(both: list[ChatModel]) -> None:
    settings = LocateSettings(neurons=4, first_layer=0.0, last_layer=1.0, probe_steps=2)
    with pytest.raises(ModelLoadError, match=r"probe steps.*quantised"):
        locate(both[0], make_pairs(4), make_demonstrations(4), settings)


def test_mixed_precision_leaves_quantised_weights_alone(both: list[ChatModel]) -> None:
    chat = both[0]
    weight = chat.sites[0].write.weight
    with arithmetic(chat, "bfloat16", cast_once=True):
        assert chat.sites[0].write.weight is weight
        assert bits_of(chat.sites[0].write) is not None
        chat.model(torch.arange(3, 9)[None])


def test_answers_in_a_batch_are_those_alone(both: list[ChatModel]) -> None:
    texts = ["w1 w2 w3", "w5", "w7 w8 w9 w10 w11"]
    together = both[0].generate(texts, max_new_tokens=6)
    assert together == [both[0].generate([text], max_new_tokens=6)[0] for text in texts]


def test_a_checkpoint_that_is_quantised_already_loads_as_such(tmp_path: Path, quantisation: str) -> None:
    folder = save_chat(tmp_path / "plain", **SHAPE)
    chat = load_model(str(folder), quantisation=quantisation, device="cpu")
    chat.model.save_pretrained(tmp_path / "packed")
    chat.tokenizer.save_pretrained(tmp_path / "packed")
    again = load_model(str(tmp_path / "packed"), device="cpu")
    assert all(site.quantised for site in again.sites)
    assert torch.equal(again.sites[1].write_vectors(), chat.sites[1].write_vectors())
    with pytest.raises(ModelLoadError, match="quantised already"):
        load_model(str(tmp_path / "packed"), quantisation=quantisation, device="cpu")
    assert make_chat("llama").neurons == 48


def test_weights_that_were_repacked_for_inference_are_refused(both: list[ChatModel], quantisation: str) -> None:
    chat = both[0]
    if quantisation == "8bit":
        pytest.skip("only weights in 4 bits are repacked")
    state = chat.sites[0].write.weight.quant_state  # type: ignore[union-attr]
    state.packing_format_for_cpu = True
    try:
        with pytest.raises(ModelLoadError, match="repacked for inference"):
            chat.sites[0].write_vectors()
    finally:
        state.packing_format_for_cpu = False
