"""Fixtures that every test may use. Nothing here, and no test that is not marked slow, needs the network."""

import os

# Before transformers is imported: a model name that does not exist must fail at once, not after retries.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from pkedit.models.chat import ChatModel
from tiny import Planted, make_chat, planted_chat

# Grouped-query attention; attention biases; Conv1D, whose weights are stored the other way round.
TINY_FAMILIES = ("llama", "qwen2", "gpt2")


@pytest.fixture(params=TINY_FAMILIES)
def chat(request: pytest.FixtureRequest) -> ChatModel:
    """A random two-layer model of each family in turn."""
    return make_chat(request.param)


@pytest.fixture
def llama() -> ChatModel:
    """A random two-layer Llama, for promises that do not depend on the family."""
    return make_chat("llama")


@pytest.fixture
def planted() -> Planted:
    """A model whose toxic neuron is known."""
    return planted_chat()
