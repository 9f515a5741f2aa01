"""How many tokens a run asks and reads, counted in characters: no tokenizer is loaded for an estimate."""

from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.prompts import Kind, Prompt
from pkedit.run.data import asked_pairs, edit_prompts, held_out_prompts, read_splits, run_suite
from pkedit.settings import RunSettings

# Means over the built-in prompts with the tokenizer of the embedded model: English text, and a chat template of which
# 24 tokens (a system message) begin every prompt and are read once.
CHARACTERS_PER_TOKEN = 4.4
TEMPLATE_TOKENS = 30
SHARED_TOKENS = 24


@dataclass(frozen=True)
class AskedPrompts:
    """Tokens of every prompt of a run behind what all prompts begin with, by what it is asked for."""

    harmful: tuple[float, ...]
    safe: tuple[float, ...]
    held_out_bare: tuple[float, ...]
    held_out_attacked: tuple[float, ...]
    suite: tuple[float, ...]
    harmless: tuple[float, ...]


def asked_prompts(settings: RunSettings) -> AskedPrompts:
    """Counts the prompts that a run with these settings asks.

    Raises:
        PkeditError: a file of prompts cannot be read, or has too few of them.
    """
    splits = read_splits(settings)
    prompts = edit_prompts(splits, settings)
    held_out = held_out_prompts(splits)
    suite = run_suite(splits, asked_pairs(splits, settings), settings)
    return AskedPrompts(
        _own_tokens(prompts.harmful),
        _own_tokens(prompts.safe),
        _own_tokens([one for one in held_out if one.attack is None]),
        _own_tokens([one for one in held_out if one.attack is not None]),
        _own_tokens([one for _, one in suite.prompts]),
        _own_tokens(suite.groups.get(Kind.HARMLESS.value, ())),
    )


def mean(numbers: Sequence[float]) -> float:
    """The mean; 0 of nothing, for what is not asked costs nothing."""
    return sum(numbers) / max(len(numbers), 1)


def _own_tokens(prompts: Sequence[Prompt]) -> tuple[float, ...]:
    behind = TEMPLATE_TOKENS - SHARED_TOKENS
    return tuple(behind + prompt.characters / CHARACTERS_PER_TOKEN for prompt in prompts)
