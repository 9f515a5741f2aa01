"""On a real GPU: every architecture gives what it gives on the processor and leaves as it came; else skipped."""

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor

from architectures import make_architecture
from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.errors import ModelLoadError
from pkedit.locate.locating import Located, locate
from pkedit.locate.region import NeuronId
from pkedit.models.chat import ChatModel
from pkedit.models.families import FAMILIES
from pkedit.models.loading import assemble, load_model
from pkedit.settings import EditSettings, LocateSettings
from tiny import (
    SYSTEM_TEMPLATE,
    changed_weights,
    leftovers,
    make_chat,
    make_demonstrations,
    make_model,
    make_pairs,
    make_tokenizer,
    save_chat,
    snapshot,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GPU = torch.device("cuda", 0)
LOCATE = LocateSettings(neurons=8, first_layer=0.0, last_layer=1.0, per_layer=4, precision="full", tokens=4)
EDIT = EditSettings(steps=2, pairs_per_step=2, demonstrations_per_step=2, precision="full")
TEXTS = ["w1 w2 w3 w9 w8 w7", "w4", "w5 w6"]


def place(family: str, device: str, dtype: torch.dtype = torch.float32) -> ChatModel:
    """The same random model, whatever the device."""
    chat = assemble(family, make_architecture(family).to(device, dtype), make_tokenizer(), reason="test")
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    return chat


def logits(chat: ChatModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = chat.model(torch.arange(3, 14, device=chat.device)[None]).logits
    return result.float().cpu()


def scores(located: Located) -> dict[NeuronId, tuple[float, ...]]:
    return {neuron.id: tuple(neuron.ranks.values()) for neuron in located.region.neurons}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_gpu_gives_what_the_processor_gives(family: str, tmp_path: Path) -> None:
    cpu, gpu = place(family, "cpu"), place(family, "cuda")
    pairs, kept = make_pairs(3), make_demonstrations(3)
    torch.testing.assert_close(logits(gpu), logits(cpu), rtol=1e-3, atol=1e-3)
    assert gpu.generate(TEXTS, max_new_tokens=5) == [gpu.generate([text], max_new_tokens=5)[0] for text in TEXTS]

    on_cpu, on_gpu = (scores(locate(chat, pairs, kept, LOCATE)) for chat in (cpu, gpu))
    # Two neurons whose ranks tie may change places.
    assert len(on_cpu.keys() & on_gpu.keys()) >= 6
    for neuron in on_cpu.keys() & on_gpu.keys():
        torch.testing.assert_close(on_gpu[neuron], on_cpu[neuron], rtol=0.02, atol=0.02)

    region = locate(cpu, pairs, kept, LOCATE).region
    before, plain = snapshot(gpu.model), logits(gpu)
    here, there = (edit(chat, region, pairs, kept, EDIT) for chat in (cpu, gpu))
    for ours, theirs in zip(there.history, here.history, strict=True):
        assert ours.safe == pytest.approx(theirs.safe, rel=0.02, abs=1e-3)
        assert ours.harmless == pytest.approx(theirs.harmless, rel=0.05, abs=1e-3)
    assert changed_weights(gpu.model, before) == []
    delta = there.delta
    delta.save(tmp_path / "delta.safetensors")
    with delta.applied_to(gpu):
        edited = logits(gpu)
        assert changed_weights(gpu.model, before) != []
    assert not torch.allclose(edited, plain, atol=1e-3)
    assert changed_weights(gpu.model, before) == []
    assert leftovers(gpu.model) == []
    # What was learnt on the one device is an edit of the model on the other.
    with Delta.load(tmp_path / "delta.safetensors").applied_to(cpu):
        torch.testing.assert_close(logits(cpu), edited, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral", "gemma3_text"])
def test_half_precision_edits_and_comes_back_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    chat = place(family, "cuda", dtype)
    pairs, kept = make_pairs(3), make_demonstrations(3)
    before = snapshot(chat.model)
    region = locate(chat, pairs, kept, LOCATE.model_copy(update={"precision": "auto"})).region
    result = edit(chat, region, pairs, kept, EDIT.model_copy(update={"precision": "auto", "steps": 6}))
    assert result.history[-1].safe < result.history[0].safe
    with result.delta.applied_to(chat):
        assert changed_weights(chat.model, before) != []
        assert bool(torch.isfinite(logits(chat)).all())
    assert changed_weights(chat.model, before) == []


def test_a_model_is_loaded_onto_the_gpu_in_bfloat16_unless_asked_otherwise(tmp_path: Path) -> None:
    folder = str(save_chat(tmp_path))
    assert {parameter.device for parameter in load_model(folder).model.parameters()} == {GPU}
    assert load_model(folder).dtype == torch.bfloat16
    assert load_model(folder, device="auto").device.type == "cuda"
    assert load_model(folder, device="cpu").device.type == "cpu"


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    chat = make_chat(max_position_embeddings=4096)
    chat.model.to(GPU)
    texts = [" ".join(f"w{1 + (index + place) % 9}" for place in range(900)) for index in range(64)]
    alone = chat.generate(texts[:2], max_new_tokens=3, batch_size=1)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 48 * 2**20) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(64 * 2**20, dtype=torch.uint8, device=GPU)
        torch.cuda.reset_peak_memory_stats()
        answers = chat.generate(texts, max_new_tokens=3, batch_size=64)
        retries = torch.cuda.memory_stats()["num_ooms"]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert retries > 1
    assert answers[:2] == alone
    assert len(answers) == 64


def test_a_model_on_two_devices_is_edited_where_its_layers_lie() -> None:
    """One layer in main memory, one on the GPU: no pretence, but two devices that refuse to be mixed."""
    whole = make_chat()
    model = make_model()
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": 0}
    places |= {"model.norm": 0, "lm_head": 0}
    spread = assemble("tiny", dispatch_model(model, places, main_device="cpu"), make_tokenizer(), reason="test")
    assert [site.device.type for site in spread.sites] == ["cpu", "cuda"]
    pairs, kept = make_pairs(3), make_demonstrations(3)
    region = locate(whole, pairs, kept, LOCATE).region
    assert len(scores(locate(spread, pairs, kept, LOCATE)).keys() & scores(locate(whole, pairs, kept, LOCATE))) >= 6
    before = snapshot(model)
    ours, theirs = (edit(chat, region, pairs, kept, EDIT) for chat in (spread, whole))
    assert ours.history[-1].safe == pytest.approx(theirs.history[-1].safe, rel=0.02, abs=1e-3)
    assert spread.generate(TEXTS, max_new_tokens=5) == whole.generate(TEXTS, max_new_tokens=5)
    with ours.delta.applied_to(spread):
        assert changed_weights(model, before) != []
    assert changed_weights(model, before) == []


def test_a_layer_that_lies_on_both_is_refused() -> None:
    model = make_model()
    model.model.layers[1].mlp.down_proj.to(GPU)
    with pytest.raises(ModelLoadError, match="mixed devices"):
        assemble("tiny", model, make_tokenizer(), reason="test")
