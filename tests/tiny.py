"""Tiny random chat models and a word tokenizer, built in code: no download, milliseconds each.

`make_chat` gives a random model of any supported family, `planted_chat` one whose toxic neuron is known.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pkedit.locate.region import Region, RegionNeuron
from pkedit.models.chat import ChatModel
from pkedit.models.experts import calls_views
from pkedit.models.families import FAMILIES
from pkedit.models.loading import assemble as assemble_chat
from pkedit.prompts.types import ContrastPair, Demonstration, Kind, Prompt

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<user>", "<assistant>")
# In planted models `MARKER` stands in harmful prompts only; unsafe answers open with `UNSAFE`, safe ones with `SAFE`.
MARKER, UNSAFE, SAFE = "bomb", "sure", "sorry"
WORDS = (*SPECIAL, MARKER, UNSAFE, SAFE, *(f"w{number}" for number in range(200)))
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user> {{ message['content'] }} {{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# A system message long enough to be worth sharing.
SYSTEM = " ".join(f"w{number}" for number in range(50, 60))
SYSTEM_TEMPLATE = TEMPLATE.replace("{% for", f" {SYSTEM} {{% for", 1)

# Laid out like Llama or like GPT-2, and configured by the same few arguments; `architectures.py` knows all others.
PLAIN_FAMILIES = (
    "gemma",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "qwen2",
    "qwen3",
    "smollm3",
)


def make_tokenizer(*, chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a word. Like Llama's it adds a BOS unless told not to, and its chat template writes one too."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def token(word: str) -> int:
    """The id of a word."""
    return WORDS.index(word)


def make_model(
    family: str = "llama", *, layers: int = 2, hidden: int = 16, neurons: int = 24, seed: int = 0, **config: Any
) -> Any:
    """A random model in float32 whose weights are large enough for every neuron to matter."""
    shape: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
    }
    if family == "gpt2":
        shape = {"n_embd": hidden, "n_inner": neurons, "n_layer": layers, "n_head": 4}
    settings = AutoConfig.for_model(
        family,
        **shape,
        **{
            "vocab_size": len(WORDS),
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            **config,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()


_PROVEN: dict[str, ChatModel] = {}


def make_chat(family: str = "llama", **options: Any) -> ChatModel:
    """A random chat model, proven by the probe as `load_model` does: a copy, for each is proven only once."""
    return proven(lambda: make_model(family, **options), "chat", family, options)


def proven(make: Callable[[], Any], kind: str, family: str, options: Mapping[str, Any]) -> ChatModel:
    """A copy of the chat model that `make` made when these options were first asked for."""
    # A test may have changed what the table says of the family.
    asked = repr((kind, family, sorted(options.items()), FAMILIES.get(family)))
    if asked not in _PROVEN:
        _PROVEN[asked] = assemble(make())
    return deepcopy(_PROVEN[asked])


def assemble(model: Any) -> ChatModel:
    """A model as a `ChatModel` with the tiny tokenizer."""
    return assemble_chat("tiny", model, make_tokenizer(), reason="test")


def save_chat(folder: Path, *, family: str = "llama", chat_template: str | None = TEMPLATE, **options: Any) -> Path:
    """A folder that `load_model` can read."""
    make_model(family, **options).save_pretrained(folder)
    make_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def words(count: int, *, seed: int) -> str:
    """Random neutral words."""
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{number}" for number in torch.randint(0, 200, (count,), generator=generator).tolist())


def make_pairs(count: int = 4, *, answer_tokens: int = 3) -> list[ContrastPair]:
    """Contrast pairs of different lengths, with the marker among the words of the prompt."""
    pairs = []
    for number in range(count):
        text = f"{words(2 + number % 3, seed=number)} {MARKER} {words(2, seed=100 + number)}"
        prompt = Prompt(id=f"h{number}", question=text, text=text, kind=Kind.HARMFUL)
        safe = f"{SAFE} {words(answer_tokens - 1 + number % 2, seed=200 + number)}"
        pairs.append(ContrastPair(prompt, safe, f"{UNSAFE} {words(answer_tokens - 1, seed=300 + number)}"))
    return pairs


def make_demonstrations(count: int = 4, *, answer_tokens: int = 3) -> list[Demonstration]:
    """Harmless prompts of different lengths with answers, without the marker."""
    kept = []
    for number in range(count):
        text = words(4 + number % 4, seed=400 + number)
        prompt = Prompt(id=f"s{number}", question=text, text=text, kind=Kind.HARMLESS)
        kept.append(Demonstration(prompt, words(answer_tokens, seed=500 + number)))
    return kept


def make_region(neurons: dict[int, Sequence[int]]) -> Region:
    """A region of the given neurons of each layer."""
    chosen = tuple(RegionNeuron(layer, index, score=0.0) for layer, own in neurons.items() for index in own)
    return Region(chosen, {"given": 1.0})


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed_weights(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the weights that are not bit for bit what they were."""
    return [name for name, weight in model.named_parameters() if not torch.equal(weight.detach(), before[name])]


def leftovers(model: nn.Module) -> list[str]:
    """Names of modules that still carry a hook or a replaced forward."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or ("forward" in vars(module) and not calls_views(module))
    ]


def answer_log_likelihood(chat: ChatModel, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """log p of each answer token, by a plain forward pass of one sequence: [answer tokens]."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = chat.model(ids, use_cache=False).logits[0].float().log_softmax(-1)
    places = torch.arange(len(prompt), ids.shape[1])
    return logits[places - 1, ids[0, places]]


@dataclass(frozen=True)
class Planted:
    """A model with one toxic neuron: it fires where the marker was read, and pushes the unsafe opening."""

    chat: ChatModel
    layer: int
    index: int


def planted_chat(*, layer: int = 1, index: int = 7, seed: int = 0, strength: float = 0.5) -> Planted:
    """Coordinate 0 of the residual stream is kept for the marker, and only the planted neuron reads it.

    The first layer's first attention heads carry the coordinate on to later tokens, as real models carry topics.
    `strength` is the length of the neuron's write vector.
    """
    chat = make_chat("llama", hidden=32, neurons=48, seed=seed, initializer_range=0.1)
    model = chat.model
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = 0.0
        embedding[token(MARKER), 0] = 2.0
        head = model.get_output_embeddings().weight
        head[:, 0] = 0.0
        for site in chat.sites:
            site.write_vectors()[:, 0] = 0.0
            for which in range(len(site.reads)):
                site.read_vectors(which)[:, 0] = 0.0
            attention = site.block.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.weight[:, 0] = 0.0
            attention.o_proj.weight[0] = 0.0
        carrier = chat.sites[0].block.self_attn
        carrier.v_proj.weight[0] = 0.0
        carrier.v_proj.weight[0, 0] = 1.0
        carrier.o_proj.weight[0, 0] = 2.0
        site = chat.sites[layer]
        for which in range(2):
            site.read_vectors(which)[index] = 0.0
            site.read_vectors(which)[index, 0] = 1.0
        direction = head[token(UNSAFE)] - head[token(SAFE)]
        site.write_vectors()[index] = strength * direction / direction.norm()
    return Planted(chat, layer, index)
