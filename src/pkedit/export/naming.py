"""What a base model is called in files that leave this machine: of a local path only its last part is told."""

from dataclasses import dataclass
from pathlib import Path

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class PublicName:
    """`text` names the model; `on_hub` says whether that is a repository of the Hub."""

    text: str
    on_hub: bool


def public_name(model: str) -> PublicName:
    """The base model's public name."""
    if model == "smollm2":
        return PublicName(EMBEDDED, True)
    path = Path(model).expanduser()
    if path.exists() or path.suffix == ".gguf" or path.is_absolute():
        return PublicName(path.resolve().name, False)
    return PublicName(model, True)
