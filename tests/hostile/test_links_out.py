"""Links out of a run folder or a model's folder are named: nothing is written through them, nor copied from them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pkedit.errors import ExportError, RunFolderError
from pkedit.export.tokenizer import write_tokenizer
from pkedit.models.loading import load_model
from pkedit.run.folder import RunFolder
from pkedit.run.links import check_links
from pkedit.run.record import write_atomically
from pkedit.settings import RunSettings
from tiny import save_chat

SECRET = "not yours"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text(SECRET)
    return tmp_path / "outside"


@pytest.mark.parametrize(
    "name", ["arms", "region.json", ".region.json.partial", "arms/pke", "arms/pke/responses.jsonl", "report.html"]
)
def test_a_run_folder_with_a_link_out_of_it_is_refused_by_name(tmp_path: Path, outside: Path, name: str) -> None:
    with RunFolder.open(tmp_path / "run", RunSettings()):
        pass
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside if "." not in name else outside / "secret")
    with pytest.raises(RunFolderError, match=rf"{name} is a link out of the run folder"):
        RunFolder.open(tmp_path / "run", RunSettings())
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == SECRET


def test_a_link_within_the_folder_and_a_link_to_it_are_fine(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("x")
    (folder / "b").symlink_to("a")
    (tmp_path / "link").symlink_to(folder)
    check_links(tmp_path / "link")


def test_a_link_that_goes_round_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "self").symlink_to(tmp_path)
    check_links(tmp_path)


def test_what_is_written_whole_is_not_written_through_a_link(tmp_path: Path, outside: Path) -> None:
    for name in (".run.json.partial", "run.json"):
        (tmp_path / name).symlink_to(outside / "secret")
    write_atomically(tmp_path / "run.json", "{}")
    assert (outside / "secret").read_text() == SECRET
    assert (tmp_path / "run.json").read_text() == "{}"
    assert not (tmp_path / "run.json").is_symlink()


def _plain(folder: Path, outside: Path) -> Path:
    return folder


def _in_the_cache(folder: Path, outside: Path) -> Path:
    """As the Hub's cache keeps a model: links to files beside, under the repository's own folder."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    return snapshot


@pytest.mark.parametrize("laid_out", [_plain, _in_the_cache])
def test_a_link_out_of_a_models_folder_is_not_exported(
    tmp_path: Path, outside: Path, laid_out: Callable[[Path, Path], Path]
) -> None:
    folder = laid_out(save_chat(tmp_path / "model"), outside)
    chat = load_model(str(folder))
    (tmp_path / "good").mkdir()
    assert "tokenizer.json" in write_tokenizer(chat, tmp_path / "good", template_given=False)
    assert json.loads((tmp_path / "good" / "tokenizer.json").read_text())
    (folder / "tokenizer_notes.json").symlink_to(outside / "secret")
    (tmp_path / "to").mkdir()
    with pytest.raises(ExportError, match=r"tokenizer_notes\.json is a link to a file outside"):
        write_tokenizer(chat, tmp_path / "to", template_given=False)
    assert not any(SECRET in path.read_text() for path in (tmp_path / "to").iterdir())
