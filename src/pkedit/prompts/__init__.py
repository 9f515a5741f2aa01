"""Prompts, contrast pairs and their splits; suites from files and from public sets."""

from pkedit.prompts.columns import Columns
from pkedit.prompts.contexts import behind_passage, behind_turns, passages
from pkedit.prompts.loading import (
    builtin_attacks,
    builtin_preambles,
    builtin_prompts,
    builtin_refusals,
    builtin_turns,
    load_attacks,
    load_prompts,
)
from pkedit.prompts.presets import PRESETS, Preset, load_attack_preset, load_preset, preset_names
from pkedit.prompts.safeedit import SafeEditCase, load_safeedit, load_safeedit_prompts
from pkedit.prompts.sources import load_attacks_from, load_prompts_from
from pkedit.prompts.splits import Split, Splits, contrast_pairs, cross, make_splits, spread
from pkedit.prompts.types import Attack, ContrastPair, Conversation, Demonstration, Kind, Prompt, Turn

__all__ = [
    "PRESETS",
    "Attack",
    "Columns",
    "ContrastPair",
    "Conversation",
    "Demonstration",
    "Kind",
    "Preset",
    "Prompt",
    "SafeEditCase",
    "Split",
    "Splits",
    "Turn",
    "behind_passage",
    "behind_turns",
    "builtin_attacks",
    "builtin_preambles",
    "builtin_prompts",
    "builtin_refusals",
    "builtin_turns",
    "contrast_pairs",
    "cross",
    "load_attack_preset",
    "load_attacks",
    "load_attacks_from",
    "load_preset",
    "load_prompts",
    "load_prompts_from",
    "load_safeedit",
    "load_safeedit_prompts",
    "make_splits",
    "passages",
    "preset_names",
    "spread",
]
