"""Fixtures that every test may use. Nothing here, and no test that is not marked slow, needs the network."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pkedit.models.chat import ChatModel
    from tiny import Planted

# Before transformers is imported: a model name that does not exist must fail at once, not after retries.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests are compiled once, and not by every worker of every session.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is imported stays: until it all is, looking for garbage in it finds nothing.
gc.disable()

# Files that take a minute or more.
LONGEST = ("test_embedded.py", "test_notebooks.py", "test_embedded_stream.py", "test_survived.py")
# Grouped-query attention; attention biases; Conv1D, whose weights are stored the other way round.
TINY_FAMILIES = ("llama", "qwen2", "gpt2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Garbage is collected again, but what was imported is no longer searched for it: half a second each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _imports_are_kept() -> None:
    """What earlier tests have imported is not searched for garbage either."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=TINY_FAMILIES)
def chat(request: pytest.FixtureRequest) -> "ChatModel":
    """A random two-layer model of each family in turn."""
    from tiny import make_chat

    return make_chat(request.param)


@pytest.fixture
def llama() -> "ChatModel":
    """A random two-layer Llama, for promises that do not depend on the family."""
    from tiny import make_chat

    return make_chat("llama")


@pytest.fixture
def planted() -> "Planted":
    """A model whose toxic neuron is known."""
    from tiny import planted_chat

    return planted_chat()


@pytest.fixture
def _machines_are_measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine can do is measured on small blocks, once."""
    monkeypatch.setattr("pkedit.models.machine.SECONDS", 0.0)
    monkeypatch.setattr("pkedit.models.machine.COPIED_BYTES", 1 << 20)
    monkeypatch.setattr("pkedit.models.machine.MATRIX_SIZE", {"cpu": 64})


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line; gives the exit code, standard output and standard error."""

    from pkedit.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        output, errors = capfd.readouterr()
        return int(stop.value.code or 0), output, errors

    return call
