"""The search on disk: optuna's journal in a folder. A killed search goes on with the trial that it was at."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from pkedit.errors import OtherRunError, RunFolderError, first_line
from pkedit.run.lock import holds_other_things
from pkedit.run.record import RecordedMetric
from pkedit.settings import RunSettings
from pkedit.tune.space import ranges, start
from pkedit.tune.trials import OBJECTIVES, Trial

JOURNAL = "trials.journal"
STUDY = "tune"


class Journal:
    """A search that is written down trial by trial. What each trial suggests depends only on those that finished.

    The sampler is TPE, which is made for some tens of costly trials: a genetic algorithm such as NSGA-II spends as many
    on its first generation. Its first ten points are random.
    """

    def __init__(self, study: optuna.Study, settings: RunSettings) -> None:
        self._study = study
        self._settings = settings
        self._begun = 0.0

    @classmethod
    def open(cls, folder: Path, settings: RunSettings) -> "Journal":
        """Opens the folder for this search, new or to be resumed.

        Raises:
            OtherRunError: the folder holds finished trials of a search with other settings.
            RunFolderError: it holds other files, a damaged journal, or cannot be written.
        """
        path = folder / JOURNAL
        if holds_other_things(folder, JOURNAL):
            raise RunFolderError(f"{folder} exists and holds no search; give another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _drop_half_a_line(path)
            lock = JournalFileOpenLock(str(path))
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path), lock_obj=lock)),
                study_name=STUDY,
                directions=["minimize"] * len(OBJECTIVES),
                load_if_exists=True,
            )
            journal = cls(study, settings)
            journal._resume(folder)
        except OSError as error:
            raise RunFolderError(f"cannot write to {folder}: {error.strerror}") from None
        except (ValueError, KeyError) as error:
            raise RunFolderError(f"{path}: damaged ({first_line(error)}); give another --out") from None
        return journal

    @property
    def vanilla(self) -> dict[str, RecordedMetric]:
        """What the unedited model gave, empty before it was measured."""
        return _read_metrics(self._study.user_attrs.get("vanilla", {}))

    @vanilla.setter
    def vanilla(self, metrics: Mapping[str, RecordedMetric]) -> None:
        self._study.set_user_attr("vanilla", _write_metrics(metrics))

    def trials(self) -> list[Trial]:
        """The finished trials in their order, those without figures too."""
        front = {one.number for one in self._study.best_trials}
        return [_as_trial(number, one, one.number in front) for number, one in enumerate(self._finished())]

    def ask(self) -> optuna.Trial:
        """Begins a trial: the first where the search starts, the others where the sampler wants one."""
        finished = len(self._finished())
        if not finished and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(dict(start(self._settings)))
        seed = np.random.SeedSequence([self._settings.seed % 2**32, finished]).generate_state(1)
        # A sampler that is resumed has forgotten where its random numbers were: each trial has its own.
        self._study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
        self._begun = time.perf_counter()
        return self._study.ask(_distributions(self._settings))

    def succeeded(self, trial: optuna.Trial, metrics: Mapping[str, RecordedMetric]) -> None:
        """Ends a trial with its figures."""
        trial.set_user_attr("seconds", round(time.perf_counter() - self._begun, 1))
        trial.set_user_attr("metrics", _write_metrics(metrics))
        self._study.tell(trial, [metrics[name].value for name in OBJECTIVES])

    def failed(self, trial: optuna.Trial, reason: str) -> None:
        """Ends a trial that gave none."""
        trial.set_user_attr("seconds", round(time.perf_counter() - self._begun, 1))
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _finished(self) -> list[FrozenTrial]:
        """Those that ended by themselves; what was killed has neither figures nor a reason."""
        trials = self._study.get_trials(deepcopy=False)
        return [one for one in trials if one.state is TrialState.COMPLETE or "reason" in one.user_attrs]

    def _resume(self, folder: Path) -> None:
        now = self._settings.model_dump(mode="json")
        then = self._study.user_attrs.get("settings")
        if then != now:
            if then is not None and self._finished():
                raise OtherRunError(folder, sorted(name for name in {*now, *then} if now.get(name) != then.get(name)))
            self._study.set_user_attr("settings", now)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)


def _distributions(settings: RunSettings) -> dict[str, BaseDistribution]:
    return {
        name: IntDistribution(int(one.low), int(one.high), log=one.log)
        if one.whole
        else FloatDistribution(one.low, one.high, log=one.log)
        for name, one in ranges(settings).items()
    }


def _as_trial(number: int, trial: FrozenTrial, front: bool) -> Trial:
    return Trial(
        number,
        trial.params,
        _read_metrics(trial.user_attrs.get("metrics", {})),
        trial.user_attrs["seconds"],
        trial.user_attrs.get("reason"),
        front,
    )


def _write_metrics(metrics: Mapping[str, RecordedMetric]) -> dict[str, Any]:
    return {name: metric.model_dump() for name, metric in metrics.items()}


def _read_metrics(content: Mapping[str, Any]) -> dict[str, RecordedMetric]:
    return {name: RecordedMetric.model_validate(metric) for name, metric in content.items()}


def _drop_half_a_line(path: Path) -> None:
    """Cuts off what a kill in the middle of writing left at the end, which nothing can be written behind."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
