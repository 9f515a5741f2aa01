"""Random models of well-known shapes, made on the device itself, with a word-level tokenizer in place of their own."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pkedit.bench.material import WORDS
from pkedit.bench.shapes import SHAPES
from pkedit.errors import ModelLoadError
from pkedit.models.chat import ChatModel
from pkedit.models.loading import assemble, placement

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user> {{ message['content'] }} {{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_shape(
    name: str, *, layers: int | None = None, device: str | None = None, dtype: str | None = None
) -> ChatModel:
    """A random model of this shape.

    Args:
        name: one of SHAPES.
        layers: build only so many.
        device: the best one if absent.
        dtype: what suits the device if absent.

    Raises:
        ModelLoadError: no such shape, device or dtype, or the device is `auto`.
    """
    if name not in SHAPES:
        raise ModelLoadError(f"unknown shape {name!r}; choose one of {', '.join(SHAPES)}")
    if device == "auto":
        raise ModelLoadError("a random model is made on one device; give --device cpu, cuda or cuda:1")
    shape = SHAPES[name]
    place, chosen, reason = placement(device, dtype)
    config = AutoConfig.for_model(
        shape.kind,
        hidden_size=shape.hidden,
        intermediate_size=shape.neurons,
        num_hidden_layers=shape.layers if layers is None else min(layers, shape.layers),
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.hidden // shape.heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        sliding_window=None,
        **{f"{token}_token_id": number for number, token in enumerate(("bos", "eos", "pad"))},
    )
    # A seed of its own, and the caller's state of random numbers as it was.
    devices = [torch.device(place)] if place.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.device(place):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=chosen)
    return assemble(name, model.eval(), stand_in_tokenizer(), reason=f"{reason}, random weights")


def stand_in_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of `material.WORDS`; every other word is unknown."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
