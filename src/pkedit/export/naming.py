"""What a base model is called in files that leave this machine: of a local path only its last part is told."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class PublicName:
    """`text` names the model; `on_hub` says whether that is a repository of the Hub."""

    text: str
    on_hub: bool


def public_name(model: str, *, local: bool = False) -> PublicName:
    """The base model's public name.

    Args:
        model: as `load_model` takes it.
        local: whether it is known to be a path. Seen from another folder than the one that it was given in, a relative
            path leads nowhere and reads like a repository.
    """
    if model == "smollm2":
        return PublicName(EMBEDDED, True)
    path = Path(model).expanduser()
    if local or path.exists() or path.suffix == ".gguf" or not is_repository_name(model):
        return PublicName(path.resolve().name, False)
    return PublicName(model, True)


def is_repository_name(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
