"""What sampling read goes to one edit, which comes out the same bit for bit however often the run was interrupted."""

from pathlib import Path
from typing import Any

import pytest

from pkedit.edit.delta import Delta
from pkedit.models.chat import ChatModel
from pkedit.models.read_prompts import ReadPrompts
from pkedit.run import pipeline
from pkedit.run.pipeline import run
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import make_chat

SETTINGS: dict[str, Any] = {
    **SMALL,
    "demonstrations": 8,
    "locate": {**SMALL["locate"], "pairs": 2, "neurons": 5, "first_layer": 0.0, "last_layer": 1.0},
}
DELTA = "delta.safetensors"


def settings(*arms: str, **edit: Any) -> RunSettings:
    return RunSettings.model_validate({**SETTINGS, "arms": arms, "edit": {**SETTINGS["edit"], **edit}})


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return make_chat(max_position_embeddings=2048)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each edit: whether it was given prompts that were read before. It has to take all of them."""
    found: list[bool] = []
    whole = pipeline.edit

    def watched(*given: Any, read: ReadPrompts | None, **options: Any) -> Any:
        found.append(read is not None)
        # Words that the tiny tokenizer does not know make some prompts the same.
        assert read is None or len(read) > 5
        result = whole(*given, read=read, **options)
        assert not read
        return result

    monkeypatch.setattr(pipeline, "edit", watched)
    return found


def changes(folder: Path) -> bytes:
    delta = Delta.load(folder / DELTA)
    return b"".join(part.numpy().tobytes() for layer in delta.layers for part in layer.change.values())


def test_an_interrupted_run_learns_the_same_bit_for_bit(tmp_path: Path, chat: ChatModel, taken: list[bool]) -> None:
    run(settings("vanilla", "pke"), tmp_path / "whole", until="edit", chat=chat)
    run(settings("vanilla", "pke"), tmp_path / "again", until="locate", chat=chat)
    run(settings("vanilla", "pke"), tmp_path / "again", until="edit", chat=chat)
    assert taken == [True, True]
    assert changes(tmp_path / "whole") == changes(tmp_path / "again")


def test_pke_learns_the_same_beside_random_neurons(tmp_path: Path, chat: ChatModel, taken: list[bool]) -> None:
    run(settings("vanilla", "pke"), tmp_path / "alone", until="edit", chat=chat)
    run(settings("vanilla", "random", "pke"), tmp_path / "beside", until="edit", chat=chat)
    assert taken == [True, False, True]
    assert changes(tmp_path / "alone") == changes(tmp_path / "beside")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (settings("vanilla", "random"), [True]),
        (settings("vanilla", "dinm", "ft"), [False, False]),
        (settings("vanilla", "pke", frozen_prompts=False), [False]),
    ],
)
def test_only_an_edit_that_freezes_its_prompts_takes_them(
    given: RunSettings, expected: list[bool], tmp_path: Path, chat: ChatModel, taken: list[bool]
) -> None:
    run(given, tmp_path / "run", until="edit", chat=chat)
    assert taken == expected
