"""One process at a time works in a run folder.

The kernel holds the lock (`flock` on `.lock`) and lets go of it however the process ends, so no lock is ever stale and
no pid has to be trusted: what the file says of its holder is for the message alone.
"""

import errno
import fcntl
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pkedit.errors import RunFolderError
from pkedit.run.links import check_links

LOCK = ".lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class Lock:
    """The right to write to a folder, until `release`, the end of a `with` block or of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path) -> "Lock":
        """Locks a folder, which is made if it is not there.

        Raises:
            RunFolderError: another process works there, it cannot be written or locked, or a link leads out of it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            check_links(path)
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_holder()).encode())
        except OSError as error:
            refused = _refused(path, descriptor, error)
            os.close(descriptor)
            raise refused from None
        return cls(path, descriptor)

    def release(self) -> None:
        """Lets go; a second time does nothing. The file stays: if it were removed, two others could lock two files."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class Locked:
    """What holds a folder's lock until the end of its `with` block; without a lock, nothing is held."""

    _lock: Lock | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()


def holds_other_things(path: Path, marker: str) -> bool:
    """Whether a path is taken and not by us: a file, or a folder with anything in it but without the file `marker`.

    A lock, and what a killed process left of a file that it was writing, are nothing.
    """
    if (path / marker).is_file() or not path.exists():
        return False
    return not path.is_dir() or not all(_is_leftover(one.name) for one in path.iterdir())


def _is_leftover(name: str) -> bool:
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))


def _holder() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _refused(path: Path, descriptor: int, error: OSError) -> RunFolderError:
    if isinstance(error, BlockingIOError):
        return RunFolderError(f"{path} is in use by {_told(os.pread(descriptor, 4096, 0))}, or give another --out")
    if error.errno in WITHOUT_LOCKS:
        return RunFolderError(
            f"{path} is on a file system without locks ({error.strerror}), where two runs could spoil each other; give "
            "an --out on another"
        )
    return RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out")


def _told(content: bytes) -> str:
    """Who holds the lock, in words; the file is empty for the moment between locking and writing."""
    try:
        holder = json.loads(content)
        pid, host, since = holder["pid"], holder["host"], holder["since"]
    except (ValueError, KeyError, TypeError):
        return "another process; wait for it"
    return f"process {pid} on {host} since {since}; wait for it, stop it there (kill {pid})"
