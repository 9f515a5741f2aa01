"""A finished run of a tiny model on disk, in well under a second: two edits, a dozen prompts of each kind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_table import SHAPE, SMALL, random_edit

from pkedit.durability.subject import Ground, Subject
from pkedit.models.chat import ChatModel
from pkedit.observer import Silent
from pkedit.run.data import read_splits
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import MARKER, make_chat, save_chat


@pytest.fixture(scope="session")
def run_settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """A model folder, and prompt files."""
    folder = tmp_path_factory.mktemp("durable")

    def written(name: str, texts: list[str]) -> str:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return str(path)

    return RunSettings.model_validate(
        {
            "model": str(save_chat(folder / "model", **SHAPE)),
            "harmful": written("harmful", [f"{MARKER} w{number} w{number + 1}" for number in range(14)]),
            "harmless": written("harmless", [f"w{number} w{number + 21}" for number in range(20, 34)]),
            "borderline": written("borderline", [f"w{number} w{number + 1} w7" for number in range(60, 74)]),
            "attacks": written("attacks", [f"w{number} {{question}}" for number in range(90, 97)]),
            "evaluate": {"judges": ["rules"], "max_new_tokens": 4},
        }
    )


@pytest.fixture(scope="session")
def loaded() -> ChatModel:
    """The model of `run_settings`; every test leaves it as it was."""
    return make_chat(**SHAPE)


@pytest.fixture
def folder(tmp_path: Path, run_settings: RunSettings, loaded: ChatModel) -> Path:
    """A run folder with the edits of `pke` and `random`."""
    path = tmp_path / "run"
    (path / "arms" / "random").mkdir(parents=True)
    new_record(run_settings).save(path)
    random_edit(loaded).save(path / "delta.safetensors")
    random_edit(loaded, seed=1).save(path / "arms" / "random" / "delta.safetensors")
    return path


@pytest.fixture
def make_subject(run_settings: RunSettings, loaded: ChatModel) -> Callable[..., Subject]:
    """An arm of such a run, of another model if asked for; `unedited` for vanilla."""

    def make(chat: ChatModel | None = None, *, unedited: bool = False) -> Subject:
        chat = chat or loaded
        ground = Ground(chat, read_splits(run_settings), run_settings, SMALL, Silent())
        return Subject(ground, None if unedited else random_edit(chat))

    return make
