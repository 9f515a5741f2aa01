"""What a user may give where prompts or attacks are asked for: a file, or the name of a public set."""

import os
from pathlib import Path

from pkedit.errors import PromptFileError
from pkedit.prompts.columns import Columns
from pkedit.prompts.loading import load_attacks, load_prompts
from pkedit.prompts.presets import (
    ATTACKS,
    PRESETS,
    load_attack_preset,
    load_preset,
    mismatch,
    preset_names,
    what,
)
from pkedit.prompts.safeedit import is_safeedit, load_safeedit_prompts
from pkedit.prompts.tables import UNITS
from pkedit.prompts.types import Attack, Kind, Prompt


def load_prompts_from(source: str | Path, kind: Kind, columns: Columns | None = None) -> list[Prompt]:
    """Prompts of a file, or of a named set of this kind.

    A file in SafeEdit's format needs no columns where harmful prompts are asked for: its questions are the prompts.

    Raises:
        PromptFileError: neither a file nor a preset; a preset of another kind; or as `load_prompts` and `load_preset`.
    """
    if _is_preset(source, columns, kind):
        return load_preset(str(source))
    if kind is Kind.HARMFUL and columns is None and is_safeedit(source):
        return load_safeedit_prompts(source)
    return load_prompts(source, kind, columns)


def load_attacks_from(source: str | Path, columns: Columns | None = None) -> list[Attack]:
    """Attack templates of a file, or of a named set.

    Raises:
        PromptFileError: as `load_prompts_from`.
    """
    if _is_preset(source, columns, ATTACKS):
        return load_attack_preset(str(source))
    return load_attacks(source, columns)


def _is_preset(source: str | Path, columns: Columns | None, wanted: Kind | str) -> bool:
    """A name goes before a file of the same name, which can be given as ./NAME.

    A path that leads nowhere is left to the loaders, which say so; a bare word that is no file is a misspelt preset.
    """
    name = str(source)
    if name not in PRESETS:
        path = Path(source)
        if not os.path.exists(path) and not path.suffix and len(path.parts) == 1:
            raise PromptFileError(
                f"{name}: neither a file nor a preset; for {what(wanted)} give a file that ends in {', '.join(UNITS)}, "
                f"or choose from {', '.join(preset_names(wanted))}"
            )
        return False
    if PRESETS[name].holds != wanted:
        raise PromptFileError(mismatch(name, wanted))
    if columns is not None:
        raise PromptFileError(f"preset {name} knows its own columns; give columns with a file only")
    return True
