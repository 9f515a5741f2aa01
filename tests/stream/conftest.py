"""One stream that tests share, and the words that streams of tiny models are made of."""

from pathlib import Path

import pytest
from small_stream import SETTINGS, as_in_tests

from pkedit.models.chat import ChatModel
from pkedit.stream.command import run_stream
from pkedit.stream.record import StreamRecord
from tiny import make_chat


@pytest.fixture
def tiny_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, refusals and judge that suit a tiny model."""
    as_in_tests(monkeypatch)


@pytest.fixture(scope="session")
def stream_chat() -> ChatModel:
    """The model of all streams; none of them changes it."""
    return make_chat(layers=3)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, stream_chat: ChatModel) -> tuple[Path, StreamRecord]:
    """A stream of three edits from beginning to end; copy the folder before changing anything in it."""
    folder = tmp_path_factory.mktemp("streams") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        as_in_tests(patch)
        return folder, run_stream(SETTINGS, folder, chat=stream_chat)
