"""`pkedit stream` from its options to what it prints."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_stream import SETTINGS

from pkedit import stream_cli
from pkedit.stream.settings import StreamSettings
from tiny import save_chat

Invoke = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("tiny_words")
def test_a_stream_is_made_told_and_taken_apart_again(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = save_chat(tmp_path / "model", layers=3), tmp_path / "out"
    given: list[dict[str, object]] = []

    def settings(values: dict[str, object]) -> StreamSettings:
        given.append(values)
        return SETTINGS.model_copy(update=values)

    monkeypatch.setattr(stream_cli, "_settings", settings)
    code, output, errors = invoke("stream", model, "--out", out, "--edits", 2, "--every", 1)
    assert code == 0, errors
    assert given == [{"model": str(model), "edits": 2, "every": 1}]
    lines = [line for line in errors.splitlines() if line.startswith("after ")]
    assert [line.split(":")[0] for line in lines] == ["after 0 edits", "after 1 edits", "after 2 edits"]
    assert "editing: 2 to 2: " in errors
    assert "Fixes held" in output
    assert str(out / "delta.safetensors") in output
    assert (out / "stream.svg").is_file()
    code, output, errors = invoke("stream", "--out", out, "--without", "1", "--json")
    assert code == 0, errors
    assert errors.splitlines()[-1].startswith("after 2 without 1 edits: Fixes held")
    assert json.loads(output)["record"]["without"] == [1]
    code, output, errors = invoke("stream", "--out", out, "--without", "none", "--json")
    assert json.loads(output)["record"]["without"] == []
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--without", "two"), "--without two: write numbers of edits such as 3,7, or none"),
        (("--without", "2", "--edits", "5"), "takes the settings of the stream in runs/stream; leave out edits"),
        (("--without", "2"), "no stream is there"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = invoke("stream", *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_a_seed_is_that_of_the_splits_and_of_editing() -> None:
    settings = stream_cli._settings({"seed": 7, "edits": 3})
    assert (settings.seed, settings.edit.seed, settings.edits, settings.as_run().seed) == (7, 7, 3, 7)
    assert stream_cli._settings({}) == StreamSettings()


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from pkedit.cli import main\n"
        "try: main(['stream', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--without" in done.stdout


def test_no_group_has_more_prompts_than_asked_for() -> None:
    measured = StreamSettings(prompts=5).as_run().evaluate
    assert {measured.unseen, measured.harmless, measured.long, measured.borderline} == {5}
