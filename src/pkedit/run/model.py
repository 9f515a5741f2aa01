"""The model of a run, as its settings say."""

from typing import Any

from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.run.safeedit.settings import SafeEditSettings
from pkedit.settings import RunSettings


def load_by(settings: RunSettings | SafeEditSettings, **otherwise: Any) -> ChatModel:
    """Loads the model that the settings name. `otherwise`: options of `load_model` that they do not decide.

    Raises:
        ModelLoadError: it cannot be had, or is none that can be edited.
    """
    said = {
        "device": settings.device,
        "dtype": settings.dtype,
        "chat_template": settings.chat_template,
        "mlp_write": settings.mlp_write,
        "trust_remote_code": settings.trust_remote_code,
        "quantisation": settings.quantisation,
    }
    return load_model(settings.model, **{**said, **otherwise})
