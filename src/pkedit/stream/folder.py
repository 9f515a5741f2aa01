"""A stream on disk: `index.json`, the delta of each edit, the answers of each measurement, and the sum of all edits.

An edit counts from the moment that `index.json` names it; its delta is written before that, and `delta.safetensors`,
which is only their sum, after it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pkedit.edit.delta import Delta
from pkedit.errors import OtherRunError, PkeditError, RunFolderError
from pkedit.evaluate.measure import Response
from pkedit.run.folder import changes
from pkedit.run.inputs import hash_inputs
from pkedit.run.lock import Lock, Locked, holds_other_things
from pkedit.run.record import file_sha256, new_record, sync, write_atomically
from pkedit.run.versioned import read_versioned
from pkedit.stream.record import SCHEMA_VERSION, Measured, StreamEdit, StreamRecord
from pkedit.stream.settings import StreamSettings
from pkedit.stream.sums import added

INDEX, DELTA, KEPT = "index.json", "delta.safetensors", "kept.jsonl"
# None of these changes an edit: a stream can be made longer, and measured more often.
NOT_OF_EDITS = {"edits", "every", "drift_every"}


class StreamFolder(Locked):
    """The record and the files beside it. Locked until the end of its `with` block."""

    def __init__(self, path: Path, record: StreamRecord, lock: Lock) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def open(cls, path: Path, settings: StreamSettings) -> "StreamFolder":
        """Opens the folder for a stream, new or to be resumed. More edits may be asked for than before.

        Raises:
            RunFolderError: the folder holds another stream, other files, a damaged one, cannot be written, or another
                process works in it.
        """
        if holds_other_things(path, INDEX):
            raise RunFolderError(f"{path} exists and is not a folder of pkedit stream; give another --out")
        return cls._locked(path, lambda: _record_for(path, settings))

    @classmethod
    def open_finished(cls, path: Path, without: Sequence[int] | None = None) -> "StreamFolder":
        """Opens a folder that holds a stream, with the settings that it was made by.

        Args:
            path: the folder.
            without: edits whose files nobody needs; those that are out at present if absent.

        Raises:
            RunFolderError: it holds none, a damaged one, or another process works in it.
        """
        if not (path / INDEX).is_file():
            raise RunFolderError(f"{path}: no stream is there (no {INDEX}); name the --out of a pkedit stream")
        return cls._locked(path, lambda: _read(path), without)

    @classmethod
    def _locked(
        cls, path: Path, record: Callable[[], StreamRecord], without: Sequence[int] | None = None
    ) -> "StreamFolder":
        lock = Lock.take(path)
        try:
            folder = cls(path, record(), lock)
            folder._look_through(folder.record.without if without is None else without)
        except BaseException:
            lock.release()
            raise
        return folder

    def save(self) -> None:
        """Writes `index.json`, whole or not at all."""
        write_atomically(self.path / INDEX, self.record.model_dump_json(indent=1) + "\n")

    def keep(self, edit: StreamEdit, delta: Delta) -> None:
        """Adds an edit; when this returns, no kill and no power cut loses it. Its file and sum are filled in here."""
        file = self.path / edit.file
        file.parent.mkdir(exist_ok=True)
        delta.save(file, number=edit.number, prompt=edit.prompt_id)
        sync(file.parent)
        edit.sha256 = file_sha256(file)
        self.record.edits.append(edit)
        self.save()

    def keep_measured(self, measured: Measured, responses: Iterable[Response]) -> None:
        """Adds a measurement with its answers."""
        measured.sha256 = self.write_lines(measured.file, map(asdict, responses))
        self.record.measured.append(measured)
        self.record.measured.sort(key=lambda one: (one.edits, one.without))
        self.save()

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> str:
        """Writes a JSONL file, whole or not at all; gives its SHA-256."""
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, (f"{json.dumps(row)}\n" for row in rows))
        return file_sha256(file)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """What `write_lines` wrote.

        Raises:
            RunFolderError: damaged.
        """
        try:
            return [json.loads(line) for line in (self.path / name).read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name}: damaged ({error}); give another --out") from None

    def read_kept(self) -> list[dict[str, Any]]:
        """The harmless answers that all edits keep.

        Raises:
            RunFolderError: not those that earlier edits kept.
        """
        file = self.path / KEPT
        if not file.is_file() or file_sha256(file) != self.record.kept_sha256:
            raise RunFolderError(f"{file}: missing or changed since it was written; put the original back")
        return self.read_lines(KEPT)

    def drop_total(self) -> None:
        """Removes the sum before the edits in the model change, for it would be another one's."""
        (self.path / DELTA).unlink(missing_ok=True)

    def total(self, first: Delta, numbers: Sequence[int]) -> Delta:
        """The sum of these edits, in their order, behind `first`.

        Raises:
            DeltaError: one of their files is damaged.
        """
        files = {one.number: one.file for one in self.record.edits}
        return added((Delta.load(self.path / files[number]) for number in numbers), first)

    def write_total(self, first: Delta) -> Delta:
        """Makes `delta.safetensors` the sum of the edits that are in the model, and gives it."""
        total = self.total(first, self.record.numbers)
        total.save(self.path / DELTA, edits=self.record.numbers, without=self.record.without)
        return total

    def take_out(self, numbers: Sequence[int]) -> None:
        """Leaves out these edits and no others; `delta.safetensors` is then the sum of all others.

        Raises:
            PkeditError: there is no edit of such a number.
        """
        known = {one.number for one in self.record.edits}
        for number in numbers:
            if number not in known:
                raise PkeditError(
                    f"--without {number}: {self.path} has no such edit; its edits are 1 to {max(known, default=0)}"
                )
        self.drop_total()
        self.record.without = sorted(set(numbers))
        # What none of the others failed on may fail again.
        self.record.exhausted = False
        self.save()
        self.write_total(Delta(()))

    def _look_through(self, without: Sequence[int]) -> None:
        """Compares the files with what was written. A measurement whose answers are gone is made again."""
        self.record.measured = [one for one in self.record.measured if (self.path / one.file).is_file()]
        for edit in self.record.edits:
            if edit.number not in without:
                self._check(edit.file, edit.sha256, f"take the edit out (--without {edit.number})")
        for measured in self.record.measured:
            self._check(measured.file, measured.sha256, "delete it, and the model is measured again")

    def _check(self, name: str, digest: str, otherwise: str) -> None:
        file = self.path / name
        found = file_sha256(file) if file.is_file() else None
        if found != digest:
            what = "missing" if found is None else "damaged or changed since it was written"
            raise RunFolderError(f"{file}: {what}; put the original back, or {otherwise}")


def _read(path: Path) -> StreamRecord:
    return read_versioned(path / INDEX, StreamRecord, SCHEMA_VERSION, remedy="give another --out")


def _record_for(path: Path, settings: StreamSettings) -> StreamRecord:
    digest = hash_inputs(settings.as_run().model_copy(update={"harmful": settings.questions})).get("harmful")
    if (path / INDEX).is_file():
        record = _read(path)
        old, new = (one.model_dump(mode="json", exclude=NOT_OF_EDITS) for one in (record.settings, settings))
        differing = changes(old, new)
        if digest != record.questions_sha256:
            differing.append(f"the content of {settings.questions}")
        if differing and (record.edits or record.measured):
            raise OtherRunError(path, differing)
        if not differing:
            record.settings = settings
            return record
        # Nothing was finished under the other settings: a mistake in them was probably just mended.
    new_one = new_record(settings.as_run())
    record = StreamRecord(
        created=new_one.created,
        command=new_one.command,
        settings=settings,
        questions_sha256=digest,
        versions=new_one.versions,
        hardware=dict(new_one.hardware),
    )
    try:
        write_atomically(path / INDEX, record.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out") from None
    return record
