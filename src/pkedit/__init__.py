"""Precision Knowledge Editing: make an open-weight chat model refuse harmful requests by editing a few neurons.

chat = pkedit.load_model("smollm2")
located = pkedit.locate(chat, pairs, demonstrations)
result = pkedit.edit(chat, located.region, pairs, demonstrations)
with result.delta.applied_to(chat):
    measured = pkedit.evaluate(chat, suite, [judge], arm="pke", max_new_tokens=32)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkedit.edit.editor import edit
    from pkedit.evaluate.measure import measure as evaluate
    from pkedit.locate.locating import locate
    from pkedit.models.loading import load_model

__all__ = ["edit", "evaluate", "load_model", "locate"]


def __getattr__(name: str) -> Any:
    """Loads modules only when they are used, so that `pkedit --help` answers at once."""
    if name == "load_model":
        return import_module("pkedit.models.loading").load_model
    if name in __all__:
        return import_module(f"pkedit.{name}")
    raise AttributeError(f"module 'pkedit' has no attribute {name!r}")
