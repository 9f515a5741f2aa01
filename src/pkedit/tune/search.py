"""The search: trial after trial on the edit and select splits, then one chosen point measured on the test split."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pkedit.edit.editor import StepLosses
from pkedit.edit.strength import Strength
from pkedit.errors import (
    DeltaError,
    NonFiniteLossError,
    NonFiniteStatesError,
    OutOfMemoryError,
    PkeditError,
    RegionError,
    RunFolderError,
)
from pkedit.evaluate.capability import check_tasks
from pkedit.locate.region import random_region
from pkedit.models.chat import ChatModel
from pkedit.models.memory import give_back_freed_memory
from pkedit.models.remote_endpoint import is_remote
from pkedit.observer import Observer, Silent
from pkedit.run.data import edit_prompts, held_out_prompts, read_splits, sample_targets
from pkedit.run.lock import Lock, holds_other_things
from pkedit.run.model import load_by
from pkedit.run.pipeline import run
from pkedit.run.record import RecordedMetric, RunRecord, write_atomically
from pkedit.settings import RunSettings
from pkedit.tune import CHOSEN
from pkedit.tune.journal import JOURNAL, Journal
from pkedit.tune.scoring import Scores, SelectSplit, search_judges
from pkedit.tune.shared import Edits, Regions
from pkedit.tune.space import settings_at
from pkedit.tune.trials import RULE, Trial, TrialFailed, choose

SCHEMA_VERSION = 1
# What settings can do to a trial. Anything else would happen to every trial alike.
FAILURES = (DeltaError, NonFiniteLossError, NonFiniteStatesError, OutOfMemoryError, RegionError, TrialFailed)


class SearchObserver(Observer, Protocol):
    """What a search tells whoever watches it."""

    def found(self, found: "Found", total: int) -> None:
        """The state of a search that is to have `total` trials: at its beginning and after each trial."""


@dataclass(frozen=True)
class Found:
    """The finished trials of a search, what the unedited model gave on the same prompts, and the chosen trial.

    `chosen` is None while no trial has figures. `model`: the loaded one, where there was anything left to try.
    """

    settings: RunSettings
    trials: tuple[Trial, ...]
    vanilla: dict[str, RecordedMetric]
    chosen: Trial | None
    model: ChatModel | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The content of `tune.json`."""
        measured = [trial for trial in self.trials if trial.failure is None]
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.settings.model,
            "split": "select",
            "rule": RULE,
            "vanilla": _plain(self.vanilla),
            "trials": [
                {
                    "number": trial.number,
                    "settings": dict(trial.point),
                    **_plain(trial.metrics),
                    "seconds": trial.seconds,
                    "front": trial.front,
                    "chosen": trial == self.chosen,
                }
                for trial in measured
            ],
            "failed": [
                {"number": one.number, "settings": dict(one.point), "reason": one.failure, "seconds": one.seconds}
                for one in self.trials
                if one.failure is not None
            ],
        }


def search(
    settings: RunSettings,
    out: str | Path,
    *,
    trials: int,
    minutes: float | None = None,
    observer: SearchObserver | None = None,
    chat: ChatModel | None = None,
) -> Found:
    """Tries settings around the given ones until there are `trials`, those of earlier calls in the folder included.

    Trial 0 has the settings as they are. Nothing of the test split is read. Once the chosen point of a folder has been
    measured on it, the search there is over, and what it found is returned.

    Args:
        settings: where the search starts, and everything that it leaves alone.
        out: the folder of the search, new or to be resumed.
        trials: how many in all, failed ones too.
        minutes: no trial is begun after so many, but for the first.
        observer: told of stages, steps and trials.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.

    Raises:
        PkeditError: whatever the user can mend; a trial that fails by its settings is recorded and no error.
    """
    began = time.monotonic()
    _check(settings)
    if holds_other_things(Path(out), JOURNAL):
        raise RunFolderError(f"{out} exists and holds no search; give another --out")
    with Lock.take(Path(out)):
        return _search(settings, Path(out), trials, None if minutes is None else began + 60 * minutes, observer, chat)


def _search(
    settings: RunSettings,
    out: Path,
    trials: int,
    until: float | None,
    observer: SearchObserver | None,
    chat: ChatModel | None,
) -> Found:
    journal = Journal.open(out, settings)
    bench: _Bench | None = None
    while len(journal.trials()) < trials and not (out / CHOSEN / "run.json").is_file():
        late = until is not None and time.monotonic() > until
        if late and journal.trials():
            break
        if bench is None:
            bench = _Bench(settings, observer or Silent(), chat)
            journal.vanilla = bench.vanilla
            if observer is not None:
                observer.found(_found(journal, settings), trials)
        bench.try_next(journal)
        if observer is not None:
            observer.found(_found(journal, settings), trials)
    return replace(_found(journal, settings), model=bench.chat if bench else chat)


def measure_chosen(found: Found, out: str | Path, *, observer: Observer | None = None) -> RunRecord:
    """Runs the chosen settings in `out`/chosen, test split included, and writes `tune.json` there.

    Args:
        found: a finished search.
        out: its folder.
        observer: told of stages and steps.

    Raises:
        TrialFailed: no trial of the search has figures.
    """
    if found.chosen is None:
        last = found.trials[-1].failure if found.trials else "there is none"
        raise TrialFailed(
            f"none of the {len(found.trials)} trials gave figures (the last one: {last}); "
            "start from other settings (--settings), or give more --trials"
        )
    folder = Path(out) / CHOSEN
    record = run(settings_at(found.settings, found.chosen.point), folder, observer=observer, chat=found.model)
    write_atomically(folder / "tune.json", json.dumps(found.as_json(), indent=1))
    return record


class _Bench:
    """The loaded model, and what all trials share."""

    def __init__(self, settings: RunSettings, observer: Observer, chat: ChatModel | None) -> None:
        self._settings, self._observer = settings, observer
        splits = read_splits(settings)
        # Made before anything takes time: they may not be there.
        judges = search_judges(settings)
        observer.stage("load")
        self.chat = chat = chat or load_by(settings)
        observer.stage("sample")
        pairs, kept = sample_targets(chat, edit_prompts(splits, settings), settings, observer.step)
        observer.stage("locate")
        self._regions = Regions(chat, pairs, kept, settings, observer.step)
        give_back_freed_memory()
        observer.stage("reading every prompt once")
        self._edits = Edits(chat, pairs, kept, held_out_prompts(splits), settings)
        observer.stage("measure vanilla")
        self._select = SelectSplit(chat, splits.select, judges, settings, observer.step)

    @property
    def vanilla(self) -> Scores:
        """The figures of the unedited model."""
        return self._select.vanilla

    def try_next(self, journal: Journal) -> None:
        """One trial, which ends with figures or as failed."""
        trial = journal.ask()
        name = f"trial {len(journal.trials())}"
        settings = settings_at(self._settings, trial.params)
        try:
            self._observer.stage(f"edit {name}")
            region = self._regions.choose(settings.locate)
            # The run of the chosen settings compares their region with random ones: there has to be room for them.
            random_region(region, self.chat.sizes, seed=settings.seed)
            delta = self._edits.learn(region, settings, self._report_losses, self._report_strength)
            self._observer.stage(f"measure {name}")
            scores = self._select.scores(delta)
        except FAILURES as error:
            journal.failed(trial, str(error))
        else:
            journal.succeeded(trial, scores)
        give_back_freed_memory()

    def _report_losses(self, losses: StepLosses, steps: int) -> None:
        self._observer.step(losses.step + 1, steps)

    def _report_strength(self, count: int, last: Strength) -> None:
        self._observer.step(count, 0, f"strength {last.factor:.2f} leaves {100 * last.held_out_asr:.0f} % harmful")


def _check(settings: RunSettings) -> None:
    """Finds now what would only be found after hours.

    Raises:
        PkeditError: there is nothing to tune in these settings, or a task of the final measurement cannot be had.
    """
    if is_remote(settings.model, settings.api_base):
        raise PkeditError(f"{settings.model} is behind an API; without its weights there is nothing to tune")
    if settings.delta is not None or "pke" not in settings.arms or settings.engine != "transformers":
        raise PkeditError("tuning makes edits: leave out delta and engine from the settings, and keep pke among --arms")
    if settings.evaluate.capability:
        check_tasks(settings.evaluate.capability)


def _found(journal: Journal, settings: RunSettings) -> Found:
    trials, vanilla = journal.trials(), journal.vanilla
    return Found(settings, tuple(trials), vanilla, choose(trials, vanilla))


def _plain(metrics: Any) -> dict[str, Any]:
    return {name: metric.model_dump() for name, metric in metrics.items()}
