"""Chat models: loading, prompts, generation, where their neurons are; and models asked over the network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkedit.models.chat import ChatModel, Progress
    from pkedit.models.family import MlpSite
    from pkedit.models.loading import load_model

__all__ = ["ChatModel", "MlpSite", "Progress", "load_model"]

_MODULES = {"ChatModel": "chat", "Progress": "chat", "MlpSite": "family", "load_model": "loading"}


def __getattr__(name: str) -> Any:
    """Loads torch only for what needs it: a remote model does not."""
    if name in _MODULES:
        return getattr(import_module(f"pkedit.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pkedit.models' has no attribute {name!r}")
