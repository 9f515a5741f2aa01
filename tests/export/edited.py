"""Runs with a random edit of a tiny model on disk, for the tests of what is exported from them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from architectures import make_architecture
from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.run.record import RecordedMetric, new_record
from pkedit.settings import RunSettings
from tiny import make_tokenizer, save_chat

# Laid out like Llama; Conv1D; a fused gate; experts alone; experts beside a dense layer.
FAMILIES = ("llama", "gpt2", "phi3", "mixtral", "qwen3_moe")


def save_model(folder: Path, family: str, **options: Any) -> Path:
    """A folder with a tiny chat model of this family."""
    if family in ("llama", "gpt2"):
        return save_chat(folder, family=family, **options)
    make_architecture(family, **options).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def random_delta(chat: ChatModel) -> Delta:
    """Changes of one to three neurons in every MLP, in all its matrices: no two layers have the same rank."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for number, site in enumerate(chat.sites):
        neurons = torch.tensor([1, 4, 9][: 1 + number % 3])
        parts = ["write", *(f"read{which}" for which in range(len(site.reads)))]
        original = {part: vectors(site, part)[neurons].detach().clone() for part in parts}
        change = {part: 0.3 * torch.randn(value.shape, generator=generator) for part, value in original.items()}
        layers.append(LayerDelta(site.layer, neurons, change, original, site.expert))
    return Delta(tuple(layers), base=chat.name)


def make_run(folder: Path, model: Path, **settings: Any) -> tuple[Path, Tensor]:
    """A run folder with a random edit, and the logits of the edited model."""
    chat = load_model(str(model), dtype=settings.get("dtype"), device="cpu")
    delta = random_delta(chat)
    record = new_record(RunSettings(model=str(model), **settings))
    record.metrics = {
        "vanilla": {"asr": RecordedMetric(value=0.9, n=72, low=0.81, high=0.95)},
        "pke": {"asr": RecordedMetric(value=0.1, n=72, low=0.05, high=0.19)},
    }
    folder.mkdir()
    record.save(folder)
    delta.save(folder / "delta.safetensors")
    with delta.applied_to(chat):
        return folder, logits(chat.model)


def logits(model: Any) -> Tensor:
    """Of a few tokens, in float32."""
    with torch.no_grad():
        result: Tensor = model(torch.arange(3, 12)[None]).logits.float()
    return result


def plain(folder: Path) -> Any:
    """The model as transformers alone loads it."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def state(folder: Path) -> dict[str, Tensor]:
    """All weights of a model folder."""
    weights: dict[str, Tensor] = plain(folder).state_dict()
    return weights
