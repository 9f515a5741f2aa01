"""A pytest plugin that makes trying a mutant cheap: what every test waits for is there before, quick tests come first.

The process that mutants are forked from collects the tests and runs none. What they would all import and build first,
random models and what transformers loads for them, holds no mutated code, so it is made there, once.
"""

import json
import math
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """Builds the models that most tests begin with."""
    from tiny import make_chat

    for family in ("llama", "qwen2", "gpt2"):
        make_chat(family)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders tests by the seconds that they took unmutated, for the first that fails is the last that is run."""
    measured = Path("mutmut-stats.json")
    if measured.is_file():
        seconds = json.loads(measured.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, math.inf))
