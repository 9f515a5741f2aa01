"""The stages of a run, in order, each finished once: sample, locate, check, edit and measure every arm."""

import json
import math
import resource
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Protocol

from pkedit.edit.baselines import dinm_settings, fixed_layer, suffixed
from pkedit.edit.delta import Delta
from pkedit.edit.editor import EditResult, StepLosses, edit
from pkedit.errors import RunFolderError
from pkedit.evaluate.compare import compare_arms
from pkedit.evaluate.drift import Drift, DriftMeter
from pkedit.evaluate.measure import Measurement, Response, measure, with_drift
from pkedit.evaluate.stats import Metric
from pkedit.judges.rules import RuleJudge
from pkedit.locate.causal import causal_check
from pkedit.locate.dinm import toxic_layer, whole_layer
from pkedit.locate.locating import Located, locate, pair_dialogues
from pkedit.locate.region import Region, random_region
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.prompts import ContrastPair, Demonstration, Kind, Prompt
from pkedit.run.data import edit_prompts, read_splits, read_targets, run_suite, sample_targets, target_rows
from pkedit.run.folder import RunFolder
from pkedit.run.record import EditRecord, RecordedComparison, RecordedMetric, RunRecord, StageRecord, write_atomically
from pkedit.settings import ARMS, RunSettings

Until = Literal["locate", "edit", "measure"]


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


def run(
    settings: RunSettings,
    out: str | Path,
    *,
    until: Until = "measure",
    observer: Observer | None = None,
    chat: ChatModel | None = None,
) -> RunRecord:
    """Runs, or resumes, everything that the settings ask for, and returns the record.

    Args:
        settings: what to do.
        out: the run folder.
        until: `locate` and `edit` stop before the later stages; a later call goes on from there.
        observer: told of stages and steps.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.

    Raises:
        PkeditError: whatever the user can mend; see `pkedit.errors`.
    """
    folder = RunFolder.open(out, settings)
    return _Run(folder, settings, observer or Silent(), chat).through(until)


class _Run:
    def __init__(self, folder: RunFolder, settings: RunSettings, observer: Observer, chat: ChatModel | None) -> None:
        self._folder = folder
        self._settings = settings
        self._observer = observer
        self._splits = read_splits(settings)
        self._chat = chat
        self._pairs: list[ContrastPair] = []
        self._kept: list[Demonstration] = []
        self._located: Located | None = None

    def through(self, until: Until) -> RunRecord:
        """All stages up to `until`."""
        self._sample()
        wanted = [arm for arm in ARMS if arm in self._settings.arms]
        if until == "locate" or {"pke", "random"} & set(wanted):
            self._locate()
            self._check_region()
        if until in ("edit", "measure"):
            for arm in wanted:
                if arm not in ("vanilla", "suffix"):
                    self._edit(arm)
        if until == "measure":
            self._measure_all(wanted)
        self._folder.save()
        return self._folder.record

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
            self._finish("load", started)
        self._folder.record.model_note = self._chat.reason
        return self._chat

    def _sample(self) -> None:
        path = self._folder.path / "targets.jsonl"
        prompts = edit_prompts(self._splits, self._settings)
        if not self._folder.finished("sample"):
            chat = self.chat
            with self._stage("sample"):
                pairs, kept = sample_targets(chat, prompts, self._settings, self._observer.step)
                self._folder.write_lines(path, target_rows(pairs, kept))
        try:
            self._pairs, self._kept = read_targets(self._folder.read_lines(path), prompts)
        except KeyError as error:
            raise RunFolderError(f"{path}: damaged at {error}; remove the run folder and run again") from None

    def _locate(self) -> None:
        if self._folder.finished("locate"):
            return
        chat = self.chat
        with self._stage("locate"):
            self._located = locate(
                chat,
                self._pairs,
                self._kept,
                self._settings.locate,
                seed=self._settings.seed,
                progress=self._observer.step,
            )
            self._located.region.save(
                self._folder.path / "region.json", layer_weight_change=self._located.layer_weight_change
            )

    def _check_region(self) -> None:
        if self._folder.finished("causal"):
            return
        if self._located is None:
            # Resumed between the two stages: the means are not on disk, so trace again.
            del self._folder.record.stages["locate"]
            self._locate()
        located, options = self._located, self._settings.locate
        assert located is not None
        bare = [pair for pair in self._pairs if pair.prompt.attack is None][: options.causal_pairs]
        with self._stage("causal"):
            check = causal_check(
                self.chat,
                located.region,
                located.means,
                pair_dialogues(self.chat, bare, limit=8),
                sorted(located.harmless, key=len)[: options.causal_pairs],
                random_regions=options.random_regions,
                first_tokens=options.first_tokens,
                first_weight=options.first_weight,
                tokens_per_batch=options.tokens_per_batch,
                seed=self._settings.seed,
                progress=self._observer.step,
            )
            self._folder.record.causal = {**asdict(check), "beyond_all": check.beyond_all}

    def _edit(self, arm: str) -> None:
        stage = f"edit {arm}"
        if self._folder.finished(stage):
            return
        chat = self.chat
        with self._stage(stage):
            region, settings = self._region(arm), self._settings.edit
            if arm in ("dinm", "ft"):
                released = self._settings.dinm_as_released and arm == "dinm"
                settings = dinm_settings(settings, as_released=released)
            pairs = self._pairs
            if arm == "dinm" and self._settings.dinm_as_released:
                pairs = [_with_suffix(pair) for pair in pairs]
            result = edit(chat, region, pairs, self._kept, settings, progress=self._report_losses)
            result.delta.save(self._folder.arm_file(arm, "delta.safetensors"), arm=arm)
            self._folder.record.edits[arm] = _edit_record(result, chat)

    def _region(self, arm: str) -> Region:
        if arm == "dinm":
            # EasyEdit's editor locates on the pairs it edits; a vote over some of them is as stable.
            layer = toxic_layer(
                self.chat,
                self._pairs[: self._settings.locate.pairs],
                limit=self._settings.edit.safe_tokens,
                as_released=self._settings.dinm_as_released,
            )
            return whole_layer(self.chat, layer)
        if arm == "ft":
            return whole_layer(self.chat, fixed_layer(self.chat))
        region = Region.load(self._folder.path / "region.json")
        if arm == "random":
            return random_region(region, [site.neurons for site in self.chat.sites], seed=self._settings.seed + 1000)
        return region

    def _measure_all(self, wanted: Sequence[str]) -> None:
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
                with self._stage(stage), self._arm(arm):
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
                        measured[arm] = with_drift(measured[arm], meter.measure())
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

    def _report_losses(self, losses: StepLosses, steps: int) -> None:
        note = f"safe {losses.safe:.2f}  unsafe {losses.unsafe:.2f}  harmless KL {losses.harmless:.3f}"
        self._observer.step(losses.step + 1, steps, note)

    @contextmanager
    def _stage(self, name: str) -> Generator[None]:
        self._observer.stage(name)
        started = time.perf_counter()
        yield
        self._finish(name, started)

    def _finish(self, name: str, started: float) -> None:
        """Marks a stage as done; only now is it skipped by a later run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._folder.record.stages[name] = StageRecord(
            seconds=round(time.perf_counter() - started, 2), peak_memory=peak
        )
        self._folder.save()


def _harmless_answers(measured: Measurement) -> dict[str, str]:
    return {
        response.prompt_id: response.answer
        for response in measured.responses
        if response.group == Kind.HARMLESS.value and response.answer
    }


def _recorded(metric: Metric) -> RecordedMetric:
    low, high = (None if math.isnan(bound) else bound for bound in (metric.low, metric.high))
    return RecordedMetric(value=metric.value, n=metric.n, low=low, high=high)


def _edit_record(result: EditResult, chat: ChatModel) -> EditRecord:
    return EditRecord(
        neurons=len(result.delta),
        share_of_neurons=len(result.delta) / chat.neurons,
        parameters=result.delta.parameters,
        layers=[layer.layer for layer in result.delta.layers],
        stopped_early=result.stopped_early,
        history=[asdict(losses) for losses in result.history],
    )


def _with_suffix(pair: ContrastPair) -> ContrastPair:
    return replace(pair, prompt=replace(pair.prompt, text=suffixed(pair.prompt.text)))
