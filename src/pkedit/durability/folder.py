"""A durability table on disk, beside the run: `durability.json`, and the answers of each cell below `durability/`.

A cell counts from the moment that `durability.json` names it; its answers are written before that.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pkedit.durability.names import NAMES
from pkedit.durability.record import SCHEMA_VERSION, Cell, DurabilityRecord, DurabilitySettings, Row
from pkedit.durability.sentences import notes, worst
from pkedit.errors import RunFolderError
from pkedit.evaluate.measure import Response
from pkedit.run.folder import changes
from pkedit.run.left import arm_path
from pkedit.run.lock import Lock, Locked
from pkedit.run.record import RunRecord, file_sha256, new_record, write_atomically
from pkedit.run.versioned import read_versioned
from pkedit.settings import ARMS

RECORD, ANSWERS = "durability.json", "durability"
# Measured unless others are named: the unedited model, the published baseline, the control, and the edit.
DEFAULT_ARMS = ("vanilla", "dinm", "random", "pke")


def arms_with_edits(folder: Path) -> tuple[str, ...]:
    """The arms of a run that can be put under a condition: the unedited model, and those whose delta is there."""
    edited = [arm for arm in ARMS if (folder / arm_path(arm, "delta.safetensors")).is_file()]
    return ("vanilla", *edited)


def chosen_arms(folder: Path, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The arms to measure, vanilla first.

    Raises:
        RunFolderError: the folder has no edit at all, or not that of an arm that was asked for.
    """
    there = arms_with_edits(folder)
    if len(there) == 1:
        raise RunFolderError(f"{folder}: no edit whose durability could be measured; finish pkedit run first")
    if asked is None:
        return tuple(arm for arm in there if arm in DEFAULT_ARMS)
    absent = [arm for arm in asked if arm not in there]
    if absent:
        raise RunFolderError(f"{folder}: no edit of {', '.join(absent)}; choose from {', '.join(there)}")
    return tuple(arm for arm in there if arm in asked)


class DurabilityFolder(Locked):
    """The record of a run folder's table. Locked until the end of its `with` block."""

    def __init__(self, path: Path, record: DurabilityRecord, lock: Lock) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def open(cls, path: Path, run: RunRecord, settings: DurabilitySettings, arms: Sequence[str]) -> "DurabilityFolder":
        """Opens the table of a run, new or to be added to. Other conditions and arms may be asked for than before.

        Raises:
            RunFolderError: a cell was measured with other settings or of another edit, a file is damaged, or another
                process works in the folder.
        """
        lock = Lock.take(path)
        try:
            return cls(path, _record_of(path, run, settings, arms), lock)
        except BaseException:
            lock.release()
            raise

    def cell(self, condition: str, arm: str) -> Cell | None:
        """What was measured, or nothing."""
        row = self.record.rows.get(condition)
        return None if row is None else row.arms.get(arm)

    def keep(self, condition: str, arm: str, cell: Cell, responses: Iterable[Response]) -> None:
        """Writes a cell with its answers; when this returns, no kill loses it."""
        answers = self.path / ANSWERS / condition
        answers.mkdir(parents=True, exist_ok=True)
        write_atomically(answers / f"{arm}.jsonl", (f"{json.dumps(asdict(one))}\n" for one in responses))
        named = NAMES[condition]
        row = self.record.rows.setdefault(condition, Row(label=named.label, source=named.source))
        row.arms[arm] = cell
        # In the order in which conditions are told, whichever were measured first.
        self.record.rows = {name: self.record.rows[name] for name in NAMES if name in self.record.rows}
        self.record.worst, self.record.notes = worst(self.record), notes(self.record)
        write_atomically(self.path / RECORD, self.record.model_dump_json(indent=1) + "\n")


def read_record(path: Path) -> DurabilityRecord:
    """The content of a `durability.json`.

    Raises:
        RunFolderError: absent, damaged, or of another schema version.
    """
    return read_versioned(path, DurabilityRecord, SCHEMA_VERSION, remedy="delete it and measure again")


def _record_of(path: Path, run: RunRecord, settings: DurabilitySettings, arms: Sequence[str]) -> DurabilityRecord:
    edits = {arm: _edit_of(path, run, arm) for arm in arms if arm != "vanilla"}
    if not (path / RECORD).is_file():
        new = new_record(run.settings)
        return DurabilityRecord(
            model=run.settings.model, settings=settings, edits=edits, versions=new.versions, hardware=new.hardware
        )
    record = read_record(path / RECORD)
    differing = changes(record.settings.model_dump(mode="json"), settings.model_dump(mode="json"))
    differing += [f"the edit of {arm}" for arm, digest in edits.items() if record.edits.get(arm, digest) != digest]
    if differing:
        raise RunFolderError(
            f"{path / RECORD} was measured otherwise ({'; '.join(differing)}); ask as then, or delete it to begin anew"
        )
    record.edits |= edits
    return record


def _edit_of(path: Path, run: RunRecord, arm: str) -> str:
    """The SHA-256 of an arm's delta, which must be what the run left."""
    name = arm_path(arm, "delta.safetensors")
    found = file_sha256(path / name)
    if run.files.get(name, found) != found:
        raise RunFolderError(f"{path / name}: damaged or changed since the run wrote it; put the original back")
    return found
