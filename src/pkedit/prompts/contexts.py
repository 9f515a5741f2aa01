"""Prompts behind something else: earlier turns of the chat, or a passage about something else in the same message.

People rarely ask first thing. An edit that has only seen first messages takes whatever stands before a request for a
reason to answer it, or to refuse.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from pkedit.prompts.types import Prompt, Turn

# The most turns before a prompt.
MOST_TURNS = 3
# Of a passage.
FEWEST_WORDS = 30


def behind_turns(prompt: Prompt, turns: Sequence[Turn], draw: random.Random) -> Prompt:
    """The prompt as a later message: one to three of these turns, drawn by `draw`, come before."""
    before = tuple(draw.sample(turns, min(draw.randint(1, MOST_TURNS), len(turns))))
    return replace(prompt, id=f"{prompt.id}+turns", before=before)


def behind_passage(prompt: Prompt, passage: str) -> Prompt:
    """The prompt with a passage before it in the same message."""
    return replace(prompt, id=f"{prompt.id}+passage", text=f"{passage}\n\n{prompt.text}")


def passages(long: Sequence[Prompt]) -> list[str]:
    """The distinct passages that these prompts of many lines are about: what stands before their last paragraph, where
    that is more than an instruction."""
    found = (prompt.text.rpartition("\n\n")[0].strip() for prompt in long)
    return list(dict.fromkeys(passage for passage in found if len(passage.split()) >= FEWEST_WORDS))
