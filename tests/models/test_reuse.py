"""What one pass has computed serves another only where the model itself shows that it can."""

from typing import Any

import pytest
import torch

from architectures import make_architecture
from pkedit.edit.editor import edit
from pkedit.edit.refusals import natural_refusals
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.keys import Keys, has_window, side_by_side
from pkedit.models.prefix import PrefixCache
from pkedit.models.reuse import cannot_reuse, cannot_skip
from pkedit.settings import EditSettings
from tiny import SYSTEM_TEMPLATE, assemble, make_chat, make_demonstrations, make_pairs, make_region

SHARING_KEYS = {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}


def mpt() -> ChatModel:
    chat = assemble(make_architecture("mpt"))
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    return chat


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "gpt_oss", "gemma3_text"])
def test_keys_and_values_with_given_positions_can_be_lent(family: str, dtype: torch.dtype) -> None:
    model = make_architecture(family).to(dtype)
    assert cannot_reuse(model) is None
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_that_counts_padding_as_places_is_found_out(dtype: torch.dtype) -> None:
    reason = cannot_reuse(make_architecture("mpt").to(dtype))
    assert reason is not None
    assert "% where a cache was lent" in reason


def test_layers_without_keys_and_values_are_found_out() -> None:
    reason = cannot_reuse(make_architecture("qwen3_next"))
    assert reason is not None
    assert "cannot be lent" in reason


def test_a_model_that_gives_nan_is_found_out() -> None:
    model = make_architecture("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert cannot_reuse(model) is not None


def test_upper_layers_that_read_the_keys_of_lower_ones_cannot_run_alone() -> None:
    chat = assemble(make_architecture("gemma4_text", **SHARING_KEYS))
    assert chat.cannot_skip is not None
    assert chat.first_layer_to_run(3) == 0
    assert cannot_skip(make_architecture("gemma4_text"), []) is None
    assert make_chat("llama").first_layer_to_run(3) == 3


def test_prompts_that_cannot_be_frozen_are_run_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, region = mpt(), make_region({1: [2, 5]})
    settings = EditSettings(steps=2, frozen_prompts=True, precision="full")
    monkeypatch.setattr(FrozenPrompts, "__init__", None)
    asked = edit(chat, region, make_pairs(3), make_demonstrations(3), settings)
    assert asked.prompts_not_frozen == chat.cannot_reuse is not None
    plain = edit(
        chat, region, make_pairs(3), make_demonstrations(3), settings.model_copy(update={"frozen_prompts": False})
    )
    assert plain.prompts_not_frozen is None
    assert plain.history == asked.history


def test_without_lent_caches_whole_dialogues_are_run() -> None:
    chat = mpt()
    lent: list[Any] = []
    handle = chat.body.register_forward_pre_hook(
        lambda _, args, kwargs: lent.append(kwargs.get("past_key_values")), with_kwargs=True
    )
    edit(chat, make_region({1: [2]}), make_pairs(3), make_demonstrations(3), EditSettings(steps=1, precision="full"))
    natural_refusals(chat, ["w1 w2", "w3 w4"], [pair.prompt for pair in make_pairs(2)], opening_tokens=2)
    handle.remove()
    assert lent
    assert not any(cache is not None for cache in lent)


def test_the_likeliest_refusal_is_the_same_with_and_without_lent_caches(llama: ChatModel) -> None:
    prompts = [pair.prompt for pair in make_pairs(3)]
    phrasings = [f"w{number} w{number + 1}" for number in range(0, 40, 2)]
    expected = natural_refusals(llama, phrasings, prompts, opening_tokens=2)
    object.__setattr__(llama, "cannot_reuse", "a test")
    assert natural_refusals(llama, phrasings, prompts, opening_tokens=2) == expected
    assert PrefixCache(llama, [], 1, first_tokens=0, first_weight=1.0, tokens_per_batch=8).ahead == 0


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("llama", {}, False),
        ("gpt2", {}, False),
        ("mistral", {"sliding_window": 6}, True),
        ("mistral", {"sliding_window": None}, False),
        ("gemma3", {}, True),
        ("gpt_oss", {}, True),
        ("llama4_text", {}, True),
        ("qwen2", {}, False),
    ],
)
def test_windows_of_attention_are_seen(family: str, config: dict[str, Any], expected: bool) -> None:
    assert has_window(make_architecture(family, **config)) is expected


@pytest.mark.parametrize("first", [True, False])
def test_padding_stands_before_the_beginning_or_behind_it(first: bool) -> None:
    def keys(*values: float) -> Keys:
        states = torch.tensor(values).view(1, -1, 1)
        return [(states, -states)]

    layers, mask = side_by_side(keys(1.0, 2.0), [keys(3.0), keys(4.0, 5.0, 6.0)], room=1, padding_first=first)
    assert mask.tolist() == ([[0, 0, 1, 1, 1], [1] * 5] if first else [[1, 1, 0, 0, 1], [1] * 5])
    expected = [0.0, 0.0, 1.0, 2.0, 3.0] if first else [1.0, 2.0, 0.0, 0.0, 3.0]
    assert layers[0][0][0, 0, :5, 0].tolist() == expected
    assert layers[0][1][0, 0, :5, 0].tolist() == [-value for value in expected]
    assert layers[0][0][1, 0, :5, 0].tolist() == [1.0, 2.0, 4.0, 5.0, 6.0]
