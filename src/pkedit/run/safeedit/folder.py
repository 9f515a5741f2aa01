"""A run of SafeEdit's protocol on disk: `safeedit.json`, and one line of `cases.jsonl` for every finished case.

A case counts from the moment its whole line is on the disk. What a kill left of a line is dropped at the next start.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pkedit.errors import OtherRunError, RunFolderError
from pkedit.evaluate.measure import Response, StoredVerdict
from pkedit.models.remote_endpoint import check_address
from pkedit.run.folder import changes
from pkedit.run.lock import Lock, Locked, holds_other_things
from pkedit.run.record import file_sha256, new_record, sync, write_atomically
from pkedit.run.safeedit.settings import SCHEMA_VERSION, SafeEditRecord, SafeEditSettings
from pkedit.run.versioned import read_versioned
from pkedit.settings import RunSettings

RECORD, CASES = "safeedit.json", "cases.jsonl"


@dataclass(frozen=True)
class CaseRow:
    """A finished case. `seconds`, `layers` and `steps` are of its edit; `failed` says why there was none.

    A failed case has no answers, those of the unedited model neither: every average is over the same cases.
    """

    case: str
    category: str
    responses: tuple[Response, ...] = ()
    seconds: float | None = None
    layers: tuple[int, ...] = ()
    steps: int | None = None
    failed: str | None = None


class SafeEditFolder(Locked):
    """The record, and the cases that are finished, by id. Locked until the end of its `with` block."""

    def __init__(self, path: Path, record: SafeEditRecord, rows: dict[str, CaseRow], lock: Lock) -> None:
        self.path = path
        self.record = record
        self.rows = rows
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, settings: SafeEditSettings, source: Path, cases_in_file: int) -> "SafeEditFolder":
        """Opens the folder for this run, new or to be resumed. Another number of cases may be asked for than before.

        Args:
            path: the folder.
            settings: of the run.
            source: the file with the cases, whose content must be what it was.
            cases_in_file: how many it has.

        Raises:
            RunFolderError: the folder holds another run, other files, a damaged line, cannot be written, or another
                process works in it.
            RemoteModelError: the address of remote judges is no URL, or carries credentials.
        """
        path = Path(path)
        # The settings are written down at once, an address in them too.
        check_address(settings.judge_api_base)
        digest = file_sha256(source)
        if holds_other_things(path, RECORD):
            raise RunFolderError(f"{path} exists and is not a folder of pkedit safeedit; give another --out")
        lock = Lock.take(path)
        try:
            return cls._opened(path, settings, source, digest, cases_in_file, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _opened(
        cls, path: Path, settings: SafeEditSettings, source: Path, digest: str, cases_in_file: int, lock: Lock
    ) -> "SafeEditFolder":
        if (path / RECORD).is_file():
            record = _read_record(path / RECORD)
            differing = _differences(record.settings, settings)
            if record.file_sha256 != digest:
                differing.append(f"the content of {source.name}")
            rows = _read_rows(path / CASES)
            if differing and rows:
                raise OtherRunError(path, differing)
            if not differing:
                record.settings = settings
                return cls(path, record, rows, lock)
            # No case was finished under the other settings: a mistake in them was probably just mended.
        new = new_record(RunSettings(model=settings.model))
        record = SafeEditRecord(
            created=new.created,
            command=new.command,
            settings=settings,
            file_sha256=digest,
            cases_in_file=cases_in_file,
            versions=new.versions,
            hardware=dict(new.hardware),
        )
        folder = cls(path, record, {}, lock)
        try:
            folder.save()
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out") from None
        return folder

    def append(self, row: CaseRow) -> None:
        """Adds a finished case; when this returns, no kill and no power cut loses it."""
        line = json.dumps(asdict(row), ensure_ascii=False) + "\n"
        with (self.path / CASES).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if not self.rows:
            # The file itself is new as well.
            sync(self.path)
        self.rows[row.case] = row

    def save(self) -> None:
        """Writes `safeedit.json`, whole or not at all."""
        write_atomically(self.path / RECORD, self.record.model_dump_json(indent=1) + "\n")

    def rows_of(self, ids: Sequence[str]) -> list[CaseRow]:
        """The finished ones among these cases, in their order."""
        return [self.rows[one] for one in ids if one in self.rows]


def _read_record(path: Path) -> SafeEditRecord:
    return read_versioned(path, SafeEditRecord, SCHEMA_VERSION, remedy="give another --out")


def _read_rows(path: Path) -> dict[str, CaseRow]:
    """The finished cases. What follows the last line's end is cut off the file: a line that was never finished."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    rows: dict[str, CaseRow] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = _row(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{path}, line {number}: damaged ({error}); remove the line, and its case is done again"
            ) from None
        rows[row.case] = row
    return rows


def _row(content: dict[str, Any]) -> CaseRow:
    responses = tuple(
        Response(**{**one, "verdicts": tuple(StoredVerdict(**verdict) for verdict in one["verdicts"])})
        for one in content["responses"]
    )
    return CaseRow(**{**content, "responses": responses, "layers": tuple(content["layers"])})


def _differences(before: SafeEditSettings, now: SafeEditSettings) -> list[str]:
    old, new = (one.model_dump(mode="json", exclude={"cases"}) for one in (before, now))
    return changes(old, new)
