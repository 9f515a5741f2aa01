"""The measuring of arms: each is asked the same prompts and does the same tasks, and all are compared in the end."""

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property

from pkedit.edit.baselines import suffixed
from pkedit.edit.delta import Delta
from pkedit.evaluate.capability import Capability, check_tasks, measure_capability
from pkedit.evaluate.compare import Comparison, compare_arms
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import (
    Measurement,
    measure,
    unjudged,
    with_capability,
    with_drift,
)
from pkedit.evaluate.pairwise import PairwiseJudge
from pkedit.evaluate.stats import Metric
from pkedit.evaluate.verdicts import Fall, arm_verdict
from pkedit.evaluate.win_rate import win_rate
from pkedit.judges.base import Judge
from pkedit.judges.choose import JudgeOptions, check_keys, make_judges, remote_model
from pkedit.judges.remote import RemoteJudge
from pkedit.judges.shipped import shipped_agreement
from pkedit.models.remote import AnswerStatus, RemoteModel
from pkedit.models.remote_endpoint import endpoint_of
from pkedit.models.unchanged import UnchangedLayers
from pkedit.prompts import Demonstration, Kind, Prompt
from pkedit.prompts.types import NO_FAMILY
from pkedit.run.data import run_suite
from pkedit.run.record import (
    RecordedComparison,
    RecordedJudge,
    RecordedMetric,
    RecordedUsage,
    RecordedVerdict,
    write_atomically,
)
from pkedit.run.stages import Stages
from pkedit.run.stored import read_measurement, write_measurement

# Enough for a few sentences of thought and the verdict.
VERDICT_TOKENS = 300
# The suffix arm changes what is asked.
UNEDITED = ("vanilla", "suffix")


class Measuring(Stages):
    """A run that measures."""

    def check(self) -> None:
        """Finds now what would only be found after minutes of editing: a judge or a task that does not exist, or the
        key of a judge that is not there.

        Raises:
            PkeditError: there is no such judge or task, or it cannot be had.
        """
        # Making the judges finds out whether they can be had.
        _ = self.judges
        if self._settings.evaluate.capability:
            check_tasks(self._settings.evaluate.capability)
        self._check_keys()

    def _check_keys(self) -> None:
        """Looks for the keys of remote judges, while there is anything left that they could be asked.

        Raises:
            RemoteModelError: one is not in the environment, or a judge's name says no endpoint.
        """
        arms, options = self._settings.arms, self._settings.evaluate
        if not all(self._folder.finished(f"measure {arm}") for arm in arms):
            check_keys(options.judges, api_base=self._settings.judge_api_base)
        edited = [arm for arm in arms if arm != "vanilla"]
        if options.win_rate_judge is not None and not all(self._folder.finished(f"win rate {arm}") for arm in edited):
            endpoint_of(options.win_rate_judge, self._settings.judge_api_base).key()

    @cached_property
    def judges(self) -> list[Judge]:
        """The judges of the settings, made once."""
        return make_judges(self._settings.evaluate.judges, self._judge_options)

    @property
    def _judge_options(self) -> JudgeOptions:
        settings = self._settings
        return JudgeOptions(settings.judge_api_base, settings.concurrency, settings.temperature, settings.device)

    def _families(self) -> dict[str, str]:
        attacks = [*self._splits.edit.attacks, *self._splits.test.attacks]
        return {attack.id: attack.family for attack in attacks if attack.family != NO_FAMILY}

    def measure_arms(self, wanted: Sequence[str]) -> None:
        """Asks every arm all prompts and gives it all tasks, as far as that was not done before, and compares them."""
        self._folder.record.families = self._families()
        # Vanilla comes first: its harmless answers are what the others are compared with.
        arms = ["vanilla", *(arm for arm in wanted if arm != "vanilla")]
        stages = [f"{what} {arm}" for arm in arms for what in self._what(arm)]
        if all(self._folder.finished(stage) for stage in stages) and self._folder.record.metrics.keys() == set(arms):
            return
        # Loaded before any stage begins, so that no stage is charged for it.
        chat = self.chat
        suite = run_suite(self._splits, self._pairs, self._settings)
        lowest = self._lowest_layer(arms)
        # Only arms that ask the prompts as they stand read the same ones.
        unchanged = UnchangedLayers(chat.blocks, lowest) if lowest else None
        measured: dict[str, Measurement] = {}
        meter: DriftMeter | None = None
        original: dict[str, str] = {}
        for arm in arms:
            if not self._folder.finished(f"measure {arm}"):
                with self.stage(f"measure {arm}"), self._arm(arm):
                    one = measure(
                        chat,
                        suite,
                        self.judges,
                        arm=arm,
                        max_new_tokens=self._settings.evaluate.max_new_tokens,
                        batch_size=self._settings.evaluate.batch_size,
                        change_prompt=suffixed if self._suffix_in_prompt(arm) else None,
                        meter=meter if not self._suffix_in_prompt(arm) else None,
                        original_answers=original,
                        unchanged=None if self._suffix_in_prompt(arm) else unchanged,
                        progress=self._observer.step,
                    )
                    if arm == "vanilla":
                        original = harmless_answers(one)
                        meter = self._meter(suite.groups[Kind.HARMLESS.value], original, lowest)
                        one = with_drift(one, meter.original())
                    write_measurement(self._folder, arm, one)
            measured[arm] = read_measurement(self._folder, arm, self.judges)
            if arm == "vanilla" and meter is None:
                original = harmless_answers(measured[arm])
                meter = self._meter(suite.groups[Kind.HARMLESS.value], original, lowest)
        for arm in arms:
            if "capability" in self._what(arm):
                measured[arm] = with_capability(measured[arm], self._capability(arm))
        if self._settings.evaluate.win_rate_judge is not None:
            for arm in arms[1:]:
                measured[arm] = replace(
                    measured[arm], metrics=measured[arm].metrics | self._win_rates(arm, measured[arm], original)
                )
        self._combine(measured)

    def _what(self, arm: str) -> tuple[str, ...]:
        """What is measured of an arm. The suffix changes what is asked, not what the model can do."""
        tasks = arm != "suffix" and len(self._settings.evaluate.capability) > 0
        return ("measure", "capability") if tasks else ("measure",)

    def _capability(self, arm: str) -> dict[str, Capability]:
        """How well the arm does the tasks; measured now, or read from its file."""
        path = self._folder.arm_file(arm, "capability.json")
        options = self._settings.evaluate
        if not self._folder.finished(f"capability {arm}"):
            with self.stage(f"capability {arm}"), self._arm(arm):
                found = measure_capability(
                    self.chat,
                    options.capability,
                    limit=options.capability_limit,
                    precision=self._settings.edit.precision,
                )
                write_atomically(path, json.dumps({task: asdict(one) for task, one in found.items()}))
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            task: Capability(one["task"], one["measure"], Metric(**one["metric"]), one["correct"])
            for task, one in content.items()
        }

    def _win_rates(self, arm: str, measured: Measurement, original: Mapping[str, str]) -> dict[str, Metric]:
        """How often the judge of win rates prefers the arm's harmless answers to the original's."""
        path = self._folder.arm_file(arm, "win_rate.json")
        own = [
            response
            for response in measured.responses
            if response.group == Kind.HARMLESS.value and response.prompt_id in original
        ]
        if not own:
            # The original had no words for any of them: there is nothing to compare with.
            return {}
        if not self._folder.finished(f"win rate {arm}"):
            with self.stage(f"win rate {arm}"):
                found = win_rate(
                    [response.prompt for response in own],
                    [response.answer for response in own],
                    [original[response.prompt_id] for response in own],
                    PairwiseJudge(self._ask_remotely),
                    seed=self._settings.seed,
                )
                write_atomically(path, json.dumps(asdict(found)))
        content = json.loads(path.read_text(encoding="utf-8"))
        rates = {"win_rate": content["length_controlled"], "win_rate_raw": content["raw"]}
        return {name: Metric(**rate) for name, rate in rates.items() if rate is not None}

    def _ask_remotely(self, prompts: list[str]) -> list[str | None]:
        model = remote_model(self._settings.evaluate.win_rate_judge or "", self._judge_options)
        answers = model.ask(prompts, max_new_tokens=VERDICT_TOKENS, progress=self._observer.step)
        self._add_usage(model)
        return [answer.text if answer.status is AnswerStatus.ANSWERED else None for answer in answers]

    def _add_usage(self, model: RemoteModel) -> None:
        """Puts what this model has cost so far, in this call, into the record."""
        usage = model.usage
        self._folder.record.usage[model.name] = RecordedUsage(
            sent=usage.sent,
            from_cache=usage.from_cache,
            failed=usage.failed,
            unmetered=usage.unmetered,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            dollars=usage.cost,
        )

    def _combine(self, measured: dict[str, Measurement]) -> None:
        """All answers in one file; in the record metrics, each arm against vanilla and against PKE, and verdicts."""
        rows = [response for arm in measured for response in measured[arm].responses]
        self._folder.write_answers(rows)
        record = self._folder.record
        record.metrics = {
            arm: {name: _recorded(metric) for name, metric in one.metrics.items()} for arm, one in measured.items()
        }
        compared = [
            row
            for against in ("vanilla", "pke")
            if against in measured
            for row in compare_arms(measured, against, seed=self._settings.seed)
        ]
        record.comparisons = [
            RecordedComparison(
                metric=row.metric,
                arm=row.arm,
                against=row.against,
                difference=_recorded(row.difference),
                p_value=row.p_value,
            )
            for row in compared
        ]
        record.verdicts = {arm: _verdict(measured, arm, compared) for arm in measured if arm != "vanilla"}
        record.judges = [
            RecordedJudge(name=judge.name, version=judge.version, agreement=shipped_agreement(judge))
            for judge in self.judges
        ]
        for judge in self.judges:
            if isinstance(judge, RemoteJudge) and isinstance(judge.model, RemoteModel) and judge.model.usage.sent:
                self._add_usage(judge.model)
        record.unjudged = {
            arm: counts for arm, one in measured.items() if (counts := unjudged(one.responses, self.judges))
        }

    def _lowest_layer(self, arms: Sequence[str]) -> int:
        """The lowest layer that an arm has edited; 0 where no edit is still to be measured."""
        edited = [arm for arm in arms if arm not in UNEDITED and not self._folder.finished(f"measure {arm}")]
        return min((self._delta(arm).layers[0].layer for arm in edited), default=0)

    def _meter(self, prompts: Sequence[Prompt], original: dict[str, str], lowest_layer: int) -> DriftMeter:
        answers = [Demonstration(prompt, original[prompt.id]) for prompt in prompts if prompt.id in original]
        limit = self._settings.evaluate.max_new_tokens
        return DriftMeter(self.chat, answers, limit=limit, lowest_layer=lowest_layer)

    def _suffix_in_prompt(self, arm: str) -> bool:
        return arm == "suffix" or (arm == "dinm" and self._settings.dinm_as_released)

    @contextmanager
    def _arm(self, arm: str) -> Generator[None]:
        """The model as this arm has it."""
        if arm in UNEDITED:
            yield
            return
        with self._delta(arm).applied_to(self.chat):
            yield

    def _delta(self, arm: str) -> Delta:
        return Delta.load(self._folder.arm_file(arm, "delta.safetensors"))


def harmless_answers(measured: Measurement) -> dict[str, str]:
    """The answers to harmless prompts, by the prompt's id; empty ones are left out."""
    return {
        response.prompt_id: response.answer
        for response in measured.responses
        if response.group == Kind.HARMLESS.value and response.answer
    }


def _verdict(measured: Mapping[str, Measurement], arm: str, compared: Sequence[Comparison]) -> RecordedVerdict:
    falls = {
        row.metric: Fall(row.difference, row.p_value) for row in compared if (row.arm, row.against) == (arm, "vanilla")
    }
    found = arm_verdict(measured["vanilla"].metrics, measured[arm].metrics, falls)
    return RecordedVerdict(outcome=None if found.outcome is None else found.outcome.value, reasons=list(found.reasons))


def _recorded(metric: Metric) -> RecordedMetric:
    low, high = (None if math.isnan(bound) else bound for bound in (metric.low, metric.high))
    return RecordedMetric(value=metric.value, n=metric.n, low=low, high=high)
