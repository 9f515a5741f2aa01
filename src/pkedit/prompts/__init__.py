"""Prompts, contrast pairs and their splits."""

from pkedit.prompts.loading import (
    builtin_attacks,
    builtin_prompts,
    builtin_refusals,
    load_attacks,
    load_prompts,
)
from pkedit.prompts.splits import Split, Splits, contrast_pairs, cross, make_splits, spread
from pkedit.prompts.types import Attack, ContrastPair, Demonstration, Kind, Prompt

__all__ = [
    "Attack",
    "ContrastPair",
    "Demonstration",
    "Kind",
    "Prompt",
    "Split",
    "Splits",
    "builtin_attacks",
    "builtin_prompts",
    "builtin_refusals",
    "contrast_pairs",
    "cross",
    "load_attacks",
    "load_prompts",
    "make_splits",
    "spread",
]
