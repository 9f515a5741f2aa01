"""The faults, each kind a function that causes some of them and says which were survived.

Survived is a run that ends with the numbers and files of an undisturbed one and does nothing finished twice, or one
that is refused by a message which names what is wrong.
"""

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from small_run import Log, different, finished, kill_myself, killed, numbers, run_small

from pkedit.errors import PkeditError
from pkedit.run.folder import RunFolder
from pkedit.run.lock import LOCK
from pkedit.run.record import RunRecord

# Of nothing that a stage made: the model is loaded by every process.
REPEATED = {"load"}


@dataclass(frozen=True)
class Outcome:
    """One fault: where it struck, and what was wrong afterwards; empty if it was survived."""

    where: str
    wrong: str = ""


Kind = Callable[[Path, Path], Iterator[Outcome]]


def killed_at_random(whole: Path, scratch: Path, *, kills: int = 20, seed: int = 0) -> Iterator[Outcome]:
    """SIGKILL at moments drawn evenly from the time that a run takes."""
    began = time.perf_counter()
    run_small(scratch / "timed")
    seconds = time.perf_counter() - began
    moments = random.Random(seed)
    for number in range(kills):
        folder, after = scratch / f"kill-{number}", moments.uniform(0, seconds)
        killed(lambda folder=folder: run_small(folder), after=after)  # type: ignore[misc]
        yield Outcome(f"after {after:.2f} of {seconds:.2f} s", _resumed(whole, folder))


def killed_at_borders(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """SIGKILL where each stage begins, and again when its files are written but it does not yet count as finished."""
    folder = scratch / "borders"
    log = scratch / "borders.log"

    class DiesAtTheFirst(Log):
        def stage(self, name: str) -> None:
            super().stage(name)
            if name not in seen:
                kill_myself()

    def dies_unfinished(self: RunFolder, stage: str) -> None:
        kill_myself()

    seen: set[str] = set()
    while True:
        before = finished(folder) if folder.exists() else set()
        log.unlink(missing_ok=True)
        if not killed(lambda: run_small(folder, observer=DiesAtTheFirst(log))):
            break
        (stage,) = (name for name in log.read_text().split("\n") if name and name not in seen)
        yield Outcome(f"at the beginning of {stage}", _twice(log, before))
        with patch.object(RunFolder, "finish", dies_unfinished):
            killed(lambda: run_small(folder))
        wrong = f"{stage} counts as finished" if stage in finished(folder) else ""
        yield Outcome(f"at the end of {stage}", wrong)
        seen.add(stage)
        # This one stage is let through.
        killed(lambda: run_small(folder, observer=DiesAtTheFirst()))
    yield Outcome("after the last stage", _differs(whole, folder))


def cut_between_write_and_rename(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """The power goes when a file is written under another name and not yet renamed; half of it is on the disk."""
    folder, log = scratch / "cut", scratch / "cut.log"
    log.touch()
    real = Path.replace

    def cut(source: Path, target: Path) -> Path:
        place = _place(folder, target)
        if place not in log.read_text().split("\n"):
            with log.open("a") as file:
                file.write(f"{place}\n")
            source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            kill_myself()
        return real(source, target)

    done = finished(folder)
    # The same folder each time, until every rename has been tried.
    with patch.object(Path, "replace", cut):
        while killed(lambda: run_small(folder)):
            yield Outcome(log.read_text().split("\n")[-2], _lost(done, folder))
            done = finished(folder)
    yield Outcome("after the last one", _differs(whole, folder))


def disk_full_at_each_write(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """No space is left when a file is to reach the disk; later there is some."""
    folder = scratch / "full"
    real = os.fsync
    tried: list[str] = []

    def full(descriptor: int) -> None:
        place = _place(folder, Path(f"/proc/self/fd/{descriptor}").readlink())
        if place not in tried:
            tried.append(place)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    done, before = finished(folder), 0
    with patch.object(os, "fsync", full):
        while (told := _refusal(folder)) or len(tried) > before:
            wrong = "" if "No space left" in told else f"said {told!r}"
            yield Outcome(tried[-1], wrong or _lost(done, folder))
            done, before = finished(folder), len(tried)
    yield Outcome("after the last one", _differs(whole, folder))


def small_disk(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """A real file system of so many kilobytes, which is made larger afterwards. Needs the right to mount."""
    for kilobytes in (4, 8, 16, 24, 32, 48, 64, 96):
        disk = scratch / f"disk-{kilobytes}"
        with mounted(disk, f"size={kilobytes}k"):
            told = _refusal(disk / "run")
            wrong = "" if "o space left" in told else f"said {told!r}"
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            yield Outcome(f"{kilobytes} KiB", wrong or _resumed(whole, disk / "run"))


def read_only(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """A file system that cannot be written to: with a finished run, with half a run, and with none."""
    disk = scratch / "read-only"
    with mounted(disk, "size=16m"):
        shutil.copytree(whole, disk / "finished")
        run_small(disk / "half", until="locate")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name in ("finished", "half", "none"):
            told = _refusal(disk / name)
            wrong = "" if "read-only" in told.lower() and str(disk / name) in told else f"said {told!r}"
            yield Outcome(f"a folder with {name} of a run", wrong)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        yield Outcome("half a run, writable again", _resumed(whole, disk / "half"))


def damaged_when_finished(whole: Path, scratch: Path, *, gone: bool = True) -> Iterator[Outcome]:
    """Every file of a finished run cut short, with one bit turned, empty, or gone."""
    yield from _damaged(whole, whole, scratch, gone=gone)


def damaged_when_half_finished(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """The same for a run that was stopped behind its edits."""
    run_small(scratch / "half", until="edit")
    yield from _damaged(whole, scratch / "half", scratch)


def leftovers(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """Garbage under every name that a run will write to, as a killed stage leaves it; the record alone counts."""
    folder = scratch / "leftovers"
    run_small(folder, until="locate")
    for path in _files(whole):
        own = folder / path.relative_to(whole)
        own.parent.mkdir(parents=True, exist_ok=True)
        for name in (own, own.with_name(f".{own.name}.partial")):
            if not name.exists():
                name.write_bytes(b'{"half": [')
    yield Outcome("behind locating", _resumed(whole, folder))


def two_at_once(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """A second process in a folder, while the first works there and after it was killed."""
    folder = scratch / "shared"
    ready, stay = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:

        class Waits(Log):
            def stage(self, name: str) -> None:
                os.write(ready[1], b".")
                os.read(stay[0], 1)

        run_small(folder, observer=Waits())
        os._exit(0)
    os.read(ready[0], 1)
    told = _refusal(folder)
    yield Outcome("while the first works", "" if f"process {child} on {os.uname().nodename}" in told else told)
    os.kill(child, 9)
    os.waitpid(child, 0)
    yield Outcome("after its death", _resumed(whole, folder))
    # The pid of another process that lives: a number in a file proves nothing.
    (folder / LOCK).write_text(f'{{"pid": {os.getppid()}, "host": "here", "since": "then"}}')
    yield Outcome("with a pid that was given anew", _resumed(whole, folder))


def clock_backwards(whole: Path, scratch: Path) -> Iterator[Outcome]:
    """Every clock goes back a second whenever it is read."""
    folder = scratch / "clock"
    ticks = iter(range(10**9, 0, -1))
    backwards = {name: lambda: float(next(ticks)) for name in ("time", "monotonic", "perf_counter")}
    with patch.multiple(time, **backwards):
        run_small(folder)
    negative = [name for name, stage in RunRecord.load(folder).stages.items() if stage.seconds < 0]
    yield Outcome("all clocks", f"negative seconds: {negative}" if negative else _differs(whole, folder))


KINDS: dict[str, Kind] = {
    "kill −9 at a random moment": killed_at_random,
    "kill −9 at the borders of each stage": killed_at_borders,
    "power cut between write and rename": cut_between_write_and_rename,
    "disk full at each write": disk_full_at_each_write,
    "a real disk that is too small": small_disk,
    "read-only file system": read_only,
    "a file damaged, run finished": damaged_when_finished,
    "a file damaged, run half finished": damaged_when_half_finished,
    "half-written files of killed stages": leftovers,
    "two processes in one folder": two_at_once,
    "clocks that go backwards": clock_backwards,
}
MOUNTING = {"a real disk that is too small", "read-only file system"}


def can_mount() -> bool:
    """Whether this process may mount a file system in memory: root on most machines."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0


@contextmanager
def mounted(folder: Path, options: str) -> Generator[None]:
    """A file system in memory."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _damaged(whole: Path, original: Path, scratch: Path, *, gone: bool = True) -> Iterator[Outcome]:
    for path in _files(original):
        name = path.relative_to(original)
        content = path.read_bytes()
        middle = len(content) // 2
        ways = {
            "cut short": content[:middle],
            "one bit turned": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
        }
        for way, damaged in ways.items():
            folder = _copy(original, scratch / "damaged")
            (folder / name).write_bytes(damaged)
            told = _refusal(folder)
            yield Outcome(f"{name} {way}", "" if str(folder / name) in told and "damaged" in told else f"said {told!r}")
        if not gone:
            continue
        folder = _copy(original, scratch / "damaged")
        (folder / name).unlink()
        if name.name == "run.json":
            told = _refusal(folder)
            yield Outcome(f"{name} gone", "" if "not a run folder" in told else f"said {told!r}")
        else:
            run_small(folder)
            yield Outcome(f"{name} gone", _differs(whole, folder))


def _copy(original: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(original, folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _refusal(folder: Path) -> str:
    """What a run in the folder is refused with; empty if it is not."""
    try:
        run_small(folder)
    except (PkeditError, OSError) as error:
        return str(error)
    return ""


def _resumed(whole: Path, folder: Path) -> str:
    """What is wrong with going on in the folder: something is done twice, or the numbers are others."""
    done, log = finished(folder), Log()
    run_small(folder, observer=log)
    twice = (done & {*log.begun}) - REPEATED
    return f"done twice: {sorted(twice)}" if twice else _differs(whole, folder)


def _differs(whole: Path, folder: Path) -> str:
    found = different(numbers(whole), numbers(folder))
    return f"other content: {', '.join(found)}" if found else ""


def _twice(log: Path, done: set[str]) -> str:
    twice = (done & {*log.read_text().split("\n")}) - REPEATED
    return f"done twice: {sorted(twice)}" if twice else ""


def _place(folder: Path, file: Path) -> str:
    """A moment of a run by what is written then: the file, and how many stages are finished."""
    return f"{os.path.relpath(file, folder)} behind {len(finished(folder))} stages"


def _lost(done: set[str], folder: Path) -> str:
    lost = done - finished(folder)
    return f"no longer finished: {sorted(lost)}" if lost else ""
