"""The items of `everyday`: multiple-choice questions written for pkedit, which need no network.

A third each is everyday knowledge, arithmetic and reading, easy enough that a model of 0.1 billion parameters
answers many of them. The four choices of an item are of similar length, and each place is right equally often.
"""

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

TOPICS = ("knowledge", "arithmetic", "reading")


@dataclass(frozen=True)
class Item:
    """One question; `answer` is the place of the right choice, `passage` what is to be read first, or empty."""

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: int
    passage: str = ""


def items() -> list[Item]:
    """All items, in the order in which lm-eval numbers them."""
    text = (files(__name__) / "everyday.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [Item(**{**row, "choices": tuple(row["choices"])}) for row in rows]


def dataset(**_: object) -> dict[str, Any]:
    """The items as lm-eval wants a `custom_dataset`: from memory, so that no dataset cache is written."""
    from datasets import Dataset

    return {"test": Dataset.from_list([asdict(item) for item in items()])}
