"""A run on disk: which stages are finished, and the files they left."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pkedit.errors import OtherRunError, RunFolderError
from pkedit.models.remote_endpoint import check_address
from pkedit.run.record import RunRecord, new_record, write_atomically
from pkedit.settings import RunSettings


class RunFolder:
    """`run.json` and the stage files beside it. Opening one with stages finished under other settings is refused."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    @classmethod
    def open(cls, path: str | Path, settings: RunSettings) -> "RunFolder":
        """Opens the folder for this run, new or to be resumed. More arms may be asked for than before.

        Raises:
            RunFolderError: the folder holds another run, other files, or cannot be written.
            RemoteModelError: the address of an endpoint is no URL, or carries credentials.
        """
        path = Path(path)
        # The settings are written down at once, an address in them too.
        check_address(settings.api_base)
        check_address(settings.judge_api_base)
        if (path / "run.json").is_file():
            record = RunRecord.load(path)
            differing = _differences(record, settings)
            if differing and not record.stages:
                # Nothing was finished under the other settings: a mistake in them was probably just mended.
                record = new_record(settings)
            elif differing:
                raise OtherRunError(path, differing)
            record.settings = settings
            return cls(path, record)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"{path} exists and is not a run folder; give another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, new_record(settings))
            folder.record.save(path)
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}; give another --out") from None
        return folder

    def finished(self, stage: str) -> bool:
        """Whether this stage ran to its end."""
        return stage in self.record.stages

    def save(self) -> None:
        """Writes `run.json`."""
        self.record.save(self.path)

    def arm_file(self, arm: str, name: str) -> Path:
        """A file of one arm; PKE's delta is the run's own, at the top."""
        if arm == "pke" and name == "delta.safetensors":
            return self.path / name
        folder = self.path / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def write_lines(self, path: Path, rows: Iterable[object]) -> None:
        """Writes dataclasses or mappings as JSONL, atomically."""
        lines = (
            json.dumps(row if isinstance(row, Mapping) else asdict(row), ensure_ascii=False)  # type: ignore[call-overload]
            for row in rows
        )
        write_atomically(path, "".join(f"{line}\n" for line in lines))

    def read_lines(self, path: Path) -> list[dict[str, Any]]:
        """Reads what `write_lines` wrote.

        Raises:
            RunFolderError: absent or damaged.
        """
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path}: damaged ({error}); remove the run folder and run again") from None


# What decides only how arms are measured; it may change as long as none has been.
OF_MEASURING = {"evaluate", "judge_api_base", "concurrency", "temperature"}


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
        path.rename(target)
    except OSError as error:
        raise RunFolderError(f"cannot move {path} aside: {error.strerror}; give another --out") from None
    return target
