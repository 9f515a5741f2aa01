"""The record of a run, `run.json`: settings, versions, hardware, timings, metrics. No torch here.

Written atomically after every stage, so that a killed run resumes behind the last finished one. It knows the SHA-256 of
all that finished stages left, of what they were given, and of itself.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pkedit.errors import RunFolderError, first_line
from pkedit.settings import RunSettings

SCHEMA_VERSION = 3
# The second has no checksums: what it leaves out is not checked.
READ_VERSIONS = (2, 3)
CHECKSUM = "sha256"
PACKAGES = (
    *("pkedit", "torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "scipy", "scikit-learn"),
    *("lm-eval", "openai", "rouge-score"),
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecordedMetric(_Record):
    """A value with the number of observations and its 95 % interval; an interval that n = 1 cannot give is null."""

    value: float
    n: int
    low: float | None
    high: float | None


class RecordedComparison(_Record):
    """The paired difference `arm` − `against` on one metric; McNemar's p, Holm-corrected, where it applies."""

    metric: str
    arm: str
    against: str
    difference: RecordedMetric
    p_value: float | None


class RecordedVerdict(_Record):
    """What an arm is (`safer`, `damaged` …) and why; null where a figure that this rests on was not measured."""

    outcome: str | None
    reasons: list[str]


class RecordedJudge(_Record):
    """A judge of the run, and how far it agrees with people, where that was measured for this version.

    `agreement`: shares of `n` labelled answers, at their full length and cut to about the length of a run's answers.
    """

    name: str
    version: str
    agreement: dict[str, Any] | None


class RecordedUsage(_Record):
    """What a remote model cost in the call that measured it: answers from the cache are not sent again.

    `failed`: requests without an answer. `unmetered`: answers that came without a count of tokens, so that tokens and
    dollars are at least what is said. `dollars`: null where the price is not known.
    """

    sent: int
    from_cache: int
    failed: int
    unmetered: int = 0
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


class EditRecord(_Record):
    """What an edit was: its size, its training curve, whether it stopped before the last step, and its strength.

    `strength`: what δ was multiplied by which leaves an ASR of `held_out_asr` on held-out prompts.
    `prompts_not_frozen`: why whole dialogues were run where frozen prompts were asked for.
    """

    neurons: int
    share_of_neurons: float
    parameters: int
    layers: list[int]
    stopped_early: bool
    strength: float | None = None
    held_out_asr: float | None = None
    prompts_not_frozen: str | None = None
    history: list[dict[str, float]]


class StageRecord(_Record):
    """A finished stage: seconds on the wall clock, and the process's peak memory when it ended, in bytes."""

    seconds: float
    peak_memory: int


class RunRecord(_Record):
    """The whole record. `metrics[arm][name]`; a metric that was not measured is absent, never 0.

    `unjudged[arm][judge]` counts the answers on which a judge gave no verdict though it judges such answers; they are
    in none of its rates. A judge without any is absent.

    `inputs`: what the run was given, by the setting's name: the SHA-256 of a file, or the revision of a repository.
    `files`: the SHA-256 of what finished stages left, by the path in the folder.
    """

    schema_version: int = SCHEMA_VERSION
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = ""
    settings: RunSettings
    versions: dict[str, str] = {}
    hardware: dict[str, str | int] = {}
    model_note: str = ""
    stages: dict[str, StageRecord] = {}
    edits: dict[str, EditRecord] = {}
    causal: dict[str, Any] | None = None
    metrics: dict[str, dict[str, RecordedMetric]] = {}
    comparisons: list[RecordedComparison] = []
    verdicts: dict[str, RecordedVerdict] = {}
    judges: list[RecordedJudge] = []
    unjudged: dict[str, dict[str, int]] = {}
    usage: dict[str, RecordedUsage] = {}
    families: dict[str, str] = {}
    inputs: dict[str, str] = {}
    files: dict[str, str] = {}

    def save(self, folder: Path) -> None:
        """Writes `run.json` atomically."""
        self.schema_version = SCHEMA_VERSION
        content = json.loads(self.model_dump_json())
        write_atomically(folder / "run.json", json.dumps({**content, CHECKSUM: _checksum(content)}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """Reads `run.json`.

        Raises:
            RunFolderError: absent, damaged, changed by hand, or of another schema version.
        """
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get("schema_version")
            if found not in READ_VERSIONS:
                raise RunFolderError(
                    f"{path}: schema version {found}, and this pkedit reads {SCHEMA_VERSION}; run it again in "
                    "another --out"
                )
            if found == SCHEMA_VERSION and content.pop(CHECKSUM, None) != _checksum(content):
                raise ValueError("its content is not what its checksum was made of")
            return cls.model_validate(content)
        except FileNotFoundError:
            raise RunFolderError(f"{folder}: not a run folder (no run.json); name the --out of a pkedit run") from None
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            raise RunFolderError(f"{path}: damaged ({first_line(error)}); run it again in another --out") from None


def new_record(settings: RunSettings) -> RunRecord:
    """A record with what is known before anything has run."""
    return RunRecord(
        settings=settings,
        command=typed_command(),
        versions=dict(_versions()),
        hardware={
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count() or 0,
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
        },
    )


def typed_command() -> str:
    """The command line of this process; empty where `pkedit` is used from Python, whose command says nothing of it."""
    called = Path(sys.argv[0]).stem
    return shlex.join(["pkedit", *sys.argv[1:]]) if called in ("pkedit", "cli") else ""


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Writes a whole file or nothing: a reader never sees half of it, a power cut included. Parts are written as they
    come."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        # Were it a link, what it leads to would be overwritten.
        temporary.unlink(missing_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        # A full disk gets back what half the file took.
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when what was written to a file, or which names a folder holds, outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a record's content, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _versions() -> dict[str, str]:
    """Of what this process runs; read once, for it runs no other."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = _commit(Path(__file__).parents[3])
    return found if commit is None else {**found, "commit": commit}


def _commit(checkout: Path) -> str | None:
    """The git commit that pkedit runs from, and whether its source has changed since; None where it is installed."""
    if not (checkout / ".git").exists() or not (checkout / "src" / "pkedit").is_dir():
        return None
    asked = ("git", "-C", str(checkout))
    try:
        head = subprocess.run((*asked, "rev-parse", "HEAD"), capture_output=True, text=True, check=True, timeout=10)
        same = subprocess.run((*asked, "diff", "--quiet", "HEAD", "--", "src"), check=False, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return "unknown: git does not say"
    return head.stdout.strip() + ("" if same else ", with changes")
