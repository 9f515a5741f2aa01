"""A search that takes a second: a random model, a dozen prompts of each kind, two training steps."""

import json
from pathlib import Path

import pytest

from pkedit.models.chat import ChatModel
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import MARKER, make_chat

SIZES = {
    **SMALL,
    "locate": {**SMALL["locate"], "neurons": 6},
    "edit": {**SMALL["edit"], "precision": "full"},
    "evaluate": {
        **{"seen": 1, "cross": 1, "unseen": 4, "harmless": 4, "long": 0, "borderline": 4, "max_new_tokens": 4},
        **{"judges": ["rules"], "capability": []},
    },
}


@pytest.fixture(scope="session")
def tune_settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Small settings over prompt files of twelve prompts and six attacks."""
    folder = tmp_path_factory.mktemp("prompts")

    def written(name: str, texts: list[str]) -> str:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return str(path)

    sources = {
        "harmful": written("harmful", [f"{MARKER} w{number} w{number + 1}" for number in range(12)]),
        "harmless": written("harmless", [f"w{number} w{number + 21}" for number in range(20, 32)]),
        "borderline": written("borderline", [f"w{number} w{number + 1} w7" for number in range(60, 72)]),
        "attacks": written("attacks", [f"w{number} {{question}}" for number in range(90, 96)]),
    }
    return RunSettings.model_validate({**SIZES, **sources})


@pytest.fixture(scope="session")
def tune_chat() -> ChatModel:
    """The model of all searches; none of them changes it."""
    return make_chat(layers=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "search"
