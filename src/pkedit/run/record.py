"""The record of a run, `run.json`: settings, versions, hardware, timings, metrics. No torch here.

Written atomically after every stage, so that a killed run resumes behind the last finished one.
"""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pkedit.errors import RunFolderError, first_line
from pkedit.settings import RunSettings

SCHEMA_VERSION = 2
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

    def save(self, folder: Path) -> None:
        """Writes `run.json` atomically."""
        write_atomically(folder / "run.json", self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """Reads `run.json`.

        Raises:
            RunFolderError: absent, damaged, or of another schema version.
        """
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get("schema_version")
            if found != SCHEMA_VERSION:
                raise RunFolderError(
                    f"{path}: schema version {found}, and this pkedit reads {SCHEMA_VERSION}; run it again in "
                    "another --out"
                )
            return cls.model_validate(content)
        except FileNotFoundError:
            raise RunFolderError(f"{folder}: not a run folder (no run.json); name the --out of a pkedit run") from None
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            raise RunFolderError(f"{path}: damaged ({first_line(error)}); run it again in another --out") from None


def new_record(settings: RunSettings) -> RunRecord:
    """A record with what is known before anything has run."""
    return RunRecord(
        settings=settings,
        command=shlex.join(["pkedit", *sys.argv[1:]]),
        versions=_versions(),
        hardware={
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count() or 0,
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
        },
    )


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
