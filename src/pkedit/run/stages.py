"""What every run shares: its folder, the model, timed stages, and the measuring of arms."""

import json
import math
import resource
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Protocol

from pkedit.edit.baselines import suffixed
from pkedit.edit.delta import Delta
from pkedit.evaluate.compare import compare_arms
from pkedit.evaluate.drift import Drift, DriftMeter
from pkedit.evaluate.measure import Measurement, Response, measure, with_drift
from pkedit.evaluate.stats import Metric
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.models.memory import give_back_freed_memory
from pkedit.prompts import ContrastPair, Demonstration, Kind, Prompt
from pkedit.run.data import read_splits, run_suite
from pkedit.run.folder import RunFolder
from pkedit.run.record import RecordedComparison, RecordedMetric, StageRecord, write_atomically
from pkedit.settings import RunSettings


class Observer(Protocol):
    """What a run tells whoever watches it."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage."""


class Silent:
    """An observer that looks away."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""


class Stages:
    """What every run shares: the folder, the model, timed stages, and the measuring of arms."""

    def __init__(self, folder: RunFolder, settings: RunSettings, observer: Observer, chat: ChatModel | None) -> None:
        self._folder = folder
        self._settings = settings
        self._observer = observer
        self._splits = read_splits(settings)
        self._chat = chat
        self._pairs: list[ContrastPair] = []

    @property
    def chat(self) -> ChatModel:
        """The model, loaded when first needed."""
        if self._chat is None:
            self._observer.stage("load")
            started = time.perf_counter()
            self._chat = load_model(
                self._settings.model,
                device=self._settings.device,
                dtype=self._settings.dtype,
                chat_template=self._settings.chat_template,
            )
            self.finish("load", started)
        self._folder.record.model_note = self._chat.reason
        return self._chat

    def measure_arms(self, wanted: Sequence[str]) -> None:
        if all(self._folder.finished(f"measure {arm}") for arm in wanted):
            return
        chat = self.chat
        suite = run_suite(self._splits, self._pairs, self._settings)
        measured: dict[str, Measurement] = {}
        # Vanilla comes first: its harmless answers are what the others are compared with.
        arms = ["vanilla", *(arm for arm in wanted if arm != "vanilla")]
        meter: DriftMeter | None = None
        original: dict[str, str] = {}
        for arm in arms:
            stage = f"measure {arm}"
            if self._folder.finished(stage):
                measured[arm] = self._read_measurement(arm)
            else:
                with self.stage(stage), self._arm(arm):
                    measured[arm] = measure(
                        chat,
                        suite,
                        RuleJudge(),
                        arm=arm,
                        max_new_tokens=self._settings.evaluate.max_new_tokens,
                        batch_size=self._settings.evaluate.batch_size,
                        change_prompt=suffixed if self._suffix_in_prompt(arm) else None,
                        meter=meter if not self._suffix_in_prompt(arm) else None,
                        original_answers=original,
                        progress=self._observer.step,
                    )
                    if arm == "vanilla":
                        original = _harmless_answers(measured[arm])
                        meter = self._meter(suite.groups[Kind.HARMLESS.value], original)
                        measured[arm] = with_drift(measured[arm], meter.original())
                    self._write_measurement(arm, measured[arm])
            if arm == "vanilla" and meter is None:
                original = _harmless_answers(measured[arm])
                meter = self._meter(suite.groups[Kind.HARMLESS.value], original)
        self._combine(measured)

    def _combine(self, measured: dict[str, Measurement]) -> None:
        """All answers in one file, all metrics in the record, every arm against vanilla and against PKE."""
        rows = [response for arm in measured for response in measured[arm].responses]
        self._folder.write_lines(self._folder.path / "responses.jsonl", rows)
        record = self._folder.record
        record.metrics = {
            arm: {name: _recorded(metric) for name, metric in one.metrics.items()} for arm, one in measured.items()
        }
        record.comparisons = [
            RecordedComparison(
                metric=row.metric,
                arm=row.arm,
                against=row.against,
                difference=_recorded(row.difference),
                p_value=row.p_value,
            )
            for against in ("vanilla", "pke")
            if against in measured
            for row in compare_arms(measured, against, seed=self._settings.seed)
        ]

    def _meter(self, prompts: Sequence[Prompt], original: dict[str, str]) -> DriftMeter:
        answers = [Demonstration(prompt, original[prompt.id]) for prompt in prompts if prompt.id in original]
        return DriftMeter(self.chat, answers, limit=self._settings.evaluate.max_new_tokens)

    def _suffix_in_prompt(self, arm: str) -> bool:
        return arm == "suffix" or (arm == "dinm" and self._settings.dinm_as_released)

    @contextmanager
    def _arm(self, arm: str) -> Generator[None]:
        """The model as this arm has it."""
        if arm in ("vanilla", "suffix"):
            yield
            return
        with Delta.load(self._folder.arm_file(arm, "delta.safetensors")).applied_to(self.chat):
            yield

    def _write_measurement(self, arm: str, measured: Measurement) -> None:
        self._folder.write_lines(self._folder.arm_file(arm, "responses.jsonl"), measured.responses)
        metrics = {name: asdict(metric) for name, metric in measured.metrics.items()}
        drift = None if measured.drift is None else asdict(measured.drift)
        content = json.dumps({"metrics": metrics, "drift": drift})
        write_atomically(self._folder.arm_file(arm, "measured.json"), content)

    def _read_measurement(self, arm: str) -> Measurement:
        rows = self._folder.read_lines(self._folder.arm_file(arm, "responses.jsonl"))
        content = json.loads(self._folder.arm_file(arm, "measured.json").read_text(encoding="utf-8"))
        drift = content["drift"]
        return Measurement(
            {name: Metric(**metric) for name, metric in content["metrics"].items()},
            tuple(Response(**row) for row in rows),
            None if drift is None else Drift(**{name: tuple(values) for name, values in drift.items()}),
        )

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        self._observer.stage(name)
        started = time.perf_counter()
        yield
        self.finish(name, started)

    def finish(self, name: str, started: float) -> None:
        """Marks a stage as done; only now is it skipped by a later run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._folder.record.stages[name] = StageRecord(
            seconds=round(time.perf_counter() - started, 2), peak_memory=peak
        )
        self._folder.save()
        give_back_freed_memory()


def _harmless_answers(measured: Measurement) -> dict[str, str]:
    return {
        response.prompt_id: response.answer
        for response in measured.responses
        if response.group == Kind.HARMLESS.value and response.answer
    }


def _recorded(metric: Metric) -> RecordedMetric:
    low, high = (None if math.isnan(bound) else bound for bound in (metric.low, metric.high))
    return RecordedMetric(value=metric.value, n=metric.n, low=low, high=high)
