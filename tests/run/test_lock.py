"""One process at a time in a folder: the second is told who the first is, and a lock never outlives its holder."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pkedit.errors import RunFolderError
from pkedit.run.folder import RunFolder, move_aside
from pkedit.run.lock import LOCK, Lock, holds_other_things
from pkedit.run.safeedit.folder import SafeEditFolder
from pkedit.run.safeedit.settings import SafeEditSettings
from pkedit.settings import RunSettings
from pkedit.tune.search import search


def test_the_second_is_told_pid_host_and_time(tmp_path: Path) -> None:
    with (
        Lock.take(tmp_path),
        pytest.raises(RunFolderError, match=rf"process {os.getpid()} on \S+ since 20.*kill {os.getpid()}.*--out"),
    ):
        Lock.take(tmp_path)


def test_a_lock_that_is_let_go_is_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Lock.take(tmp_path) as lock:
            lock.release()


def test_what_stands_in_the_file_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(f'{{"pid": {os.getpid()}, "host": "here", "since": "now"}}')
    Lock.take(tmp_path).release()
    assert (tmp_path / LOCK).read_text() == ""


def test_a_holder_that_has_not_said_who_it_is_yet_still_holds(tmp_path: Path) -> None:
    with Lock.take(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(RunFolderError, match="another process"):
            Lock.take(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFolderError, match="without locks"):
        Lock.take(tmp_path)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(RunFolderError, match="cannot write"):
        Lock.take(tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_folder_of_other_things_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.open(tmp_path, RunSettings())
    with pytest.raises(RunFolderError, match="holds no search"):
        search(RunSettings(), tmp_path, trials=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_kill_leaves_before_the_first_record_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    (tmp_path / ".run.json.partial").write_text("{")
    assert not holds_other_things(tmp_path, "run.json")
    with RunFolder.open(tmp_path, RunSettings()):
        assert (tmp_path / "run.json").is_file()


def test_every_command_that_writes_refuses_a_folder_in_use(tmp_path: Path) -> None:
    source = tmp_path / "cases.json"
    source.write_text("[]")
    folder = tmp_path / "run"
    with Lock.take(folder):
        for opening in (
            lambda: RunFolder.open(folder, RunSettings()),
            lambda: SafeEditFolder.open(folder, SafeEditSettings(file=str(source), method="vanilla"), source, 0),
            lambda: search(RunSettings(), folder, trials=1),
            lambda: move_aside(folder),
        ):
            with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
                opening()


def test_a_refused_opening_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    for _ in range(2):
        with pytest.raises(RunFolderError, match="damaged"):
            RunFolder.open(tmp_path, RunSettings())
