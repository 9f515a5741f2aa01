"""A run on disk: which stages are finished, and the files they left, each with its SHA-256 in `run.json`.

A file that is gone has its stage, and all that rests on it, done again. One that was changed is named and refused.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pkedit.errors import OtherRunError, RunFolderError
from pkedit.models.remote_endpoint import check_address
from pkedit.run.inputs import hash_inputs
from pkedit.run.left import ANSWERS, MEASURING, arm_path, files_of, resting_on, split
from pkedit.run.lock import Lock, Locked, holds_other_things
from pkedit.run.record import RunRecord, file_sha256, new_record, sync, typed_command, write_atomically
from pkedit.settings import RunSettings


class RunFolder(Locked):
    """`run.json` and the stage files beside it. Opening one with stages finished under other settings is refused.

    An opened folder is locked until the end of its `with` block: no other process opens it meanwhile.
    """

    def __init__(self, path: Path, record: RunRecord, lock: Lock | None = None) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, settings: RunSettings) -> "RunFolder":
        """Opens the folder for this run, new or to be resumed. More arms may be asked for than before.

        Raises:
            RunFolderError: the folder holds another run, other files, a damaged one, cannot be written, or another
                process works in it.
            RemoteModelError: the address of an endpoint is no URL, or carries credentials.
            PromptFileError: a preset of prompts cannot be had.
        """
        path = Path(path)
        # The settings are written down at once, an address in them too.
        check_address(settings.api_base)
        check_address(settings.judge_api_base)
        if holds_other_things(path, "run.json"):
            raise RunFolderError(f"{path} exists and is not a run folder; give another --out")
        lock = Lock.take(path)
        try:
            return cls(path, _record_of(path, settings), lock)
        except BaseException:
            lock.release()
            raise

    def finished(self, stage: str) -> bool:
        """Whether this stage ran to its end."""
        return stage in self.record.stages

    def finish(self, stage: str) -> None:
        """Takes the SHA-256 of what the stage left, once it is where a power cut cannot undo it, and writes `run.json`.

        The stage itself has to stand in the record already.
        """
        for name in files_of(stage):
            file = self.path / name
            if file.is_file():
                sync(file)
                sync(file.parent)
                self.record.files[name] = file_sha256(file)
        # A folder that `locate` began and `run` went on with is made by the latter.
        self.record.command = typed_command() or self.record.command
        self.save()

    def forget(self, stage: str) -> None:
        """Has a stage, and all that rests on it, done again."""
        _forget(self.record, stage)
        self.save()

    def save(self) -> None:
        """Writes `run.json`."""
        self.record.save(self.path)

    def arm_file(self, arm: str, name: str) -> Path:
        """A file of one arm; PKE's delta is the run's own, at the top."""
        path = self.path / arm_path(arm, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_lines(self, path: Path, rows: Iterable[object]) -> None:
        """Writes dataclasses or mappings as JSONL, atomically."""
        lines = (
            json.dumps(row if isinstance(row, Mapping) else asdict(row), ensure_ascii=False)  # type: ignore[call-overload]
            for row in rows
        )
        write_atomically(path, (f"{_encodable(line)}\n" for line in lines))

    def write_answers(self, rows: Iterable[object]) -> None:
        """Writes `responses.jsonl`, the answers of all arms, and notes its SHA-256 for the next `save`."""
        if self.record.files.pop(ANSWERS, None) is not None:
            # A kill between the new file and its new sum must not make it look damaged.
            self.save()
        self.write_lines(self.path / ANSWERS, rows)
        self.record.files[ANSWERS] = file_sha256(self.path / ANSWERS)

    def read_lines(self, path: Path) -> list[dict[str, Any]]:
        """Reads what `write_lines` wrote.

        Raises:
            RunFolderError: absent or damaged.
        """
        try:
            # An answer may hold the other separators that `splitlines` knows.
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path}: damaged ({error}); remove the run folder and run again") from None


# What decides only how arms are measured; it may change as long as none has been.
OF_MEASURING = {"evaluate", "judge_api_base", "concurrency", "temperature"}


def _encodable(line: str) -> str:
    """JSON with halves of surrogate pairs, which UTF-8 has no bytes for, as escapes."""
    return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", line)


def _record_of(path: Path, settings: RunSettings) -> RunRecord:
    """The record of a locked folder for this run: what it holds, looked through, or a new one."""
    inputs = hash_inputs(settings)
    found = (path / "run.json").is_file()
    record = RunRecord.load(path) if found else new_record(settings)
    if found:
        differing = _differences(record, settings)
        differing += [
            f"the content of {getattr(settings, name)}"
            for name, digest in inputs.items()
            if record.inputs.get(name, digest) != digest
        ]
        if differing and record.stages:
            raise OtherRunError(path, differing)
        if differing:
            # Nothing was finished under the other settings: a mistake in them was probably just mended.
            record = new_record(settings)
    record.settings = settings
    record.inputs |= inputs
    if found:
        _look_through(path, record)
        return record
    try:
        record.save(path)
    except OSError as error:
        raise RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out") from None
    return record


def _look_through(path: Path, record: RunRecord) -> None:
    """Forgets the stages whose files are gone.

    Raises:
        RunFolderError: a file is not what its stage left.
    """
    owners = {name: stage for stage in record.stages for name in files_of(stage)}
    gone = []
    for name, digest in record.files.items():
        file = path / name
        if not file.exists():
            gone.append(name)
            continue
        try:
            found = file_sha256(file)
        except OSError as error:
            raise RunFolderError(f"{file}: damaged ({error.strerror}); {_remedy(owners.get(name))}") from None
        if found != digest:
            raise RunFolderError(
                f"{file}: damaged or changed since it was written (its SHA-256 begins with {found[:8]}, not "
                f"{digest[:8]}); {_remedy(owners.get(name))}"
            )
    for name in gone:
        if name == ANSWERS:
            record.files.pop(name, None)
            record.metrics = {}
        elif name in owners:
            _forget(record, owners[name])


def _remedy(stage: str | None) -> str:
    again = "it is put together again" if stage is None else f"the stage {stage!r} and what rests on it are done again"
    return f"put the original back, or delete the file and {again}"


def _forget(record: RunRecord, stage: str) -> None:
    for one in resting_on(stage, [*record.stages]):
        del record.stages[one]
        for name in files_of(one):
            record.files.pop(name, None)
        if split(one)[0] in MEASURING:
            record.metrics = {}


def _differences(record: RunRecord, now: RunSettings) -> list[str]:
    measured = any(stage.split()[0] in ("measure", "capability", "win") for stage in record.stages)
    ignored = {"arms"} if measured else {"arms", *OF_MEASURING}
    old, new = (one.model_dump(mode="json", exclude=ignored) for one in (record.settings, now))
    return changes(old, new)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> list[str]:
    """What differs between two sets of settings, in words: `locate.neurons 128 → 64`."""
    found = []
    for name in sorted(old):
        before, after = old[name], new[name]
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() == after.keys():
            found += changes(before, after, f"{above}{name}.")
        else:
            found.append(f"{above}{name} {json.dumps(before)} → {json.dumps(after)}")
    return found


def move_aside(path: Path) -> Path:
    """Renames a run folder to the first free name beside it, `NAME.old-1` and so on; nothing is deleted.

    Raises:
        RunFolderError: it cannot be renamed.
    """
    if Path.cwd().is_relative_to(path.resolve()):
        raise RunFolderError(f"{path} holds the working folder and stays where it is; give another --out")
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    try:
        # Under the lock: nobody works in what is moved.
        with Lock.take(path):
            path.rename(target)
    except OSError as error:
        raise RunFolderError(f"cannot move {path} aside: {error.strerror}; give another --out") from None
    return target
