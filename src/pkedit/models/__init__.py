"""Chat models: loading, prompts, generation, and where their neurons are."""

from pkedit.models.chat import ChatModel, Progress
from pkedit.models.family import MlpSite
from pkedit.models.loading import load_model

__all__ = ["ChatModel", "MlpSite", "Progress", "load_model"]
