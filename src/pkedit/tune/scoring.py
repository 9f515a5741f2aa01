"""Measures a model, edited or not, on the select split: the four figures that a search weighs against each other."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from pkedit.edit.delta import Delta
from pkedit.errors import PkeditError
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import GivenAnswer, Response, drift_metrics, judged, rates
from pkedit.evaluate.stats import Metric
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judge
from pkedit.judges.choose import JudgeOptions, check_keys, make_judges
from pkedit.locate.region import candidate_layers
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.unchanged import UnchangedLayers
from pkedit.prompts import Demonstration, Kind
from pkedit.prompts.splits import Split
from pkedit.run.record import RecordedMetric
from pkedit.settings import RunSettings
from pkedit.tune.trials import OBJECTIVES, TrialFailed

Scores = dict[str, RecordedMetric]


def search_judges(settings: RunSettings) -> list[Judge]:
    """The first of the settings' judges, and if that knows no refusals the first that does.

    Raises:
        PkeditError: a judge of the settings cannot be had, or none of them knows refusals.
    """
    options = JudgeOptions(settings.judge_api_base, settings.concurrency, settings.temperature, settings.device)
    check_keys(settings.evaluate.judges, api_base=settings.judge_api_base)
    judges = make_judges(settings.evaluate.judges, options)
    telling = next((judge for judge in judges if judge.tells_refusals), None)
    if telling is None:
        names = ", ".join(judge.name for judge in judges)
        raise PkeditError(
            f"over-refusal cannot be measured: {names} cannot say what a refusal is; add rules to --judges"
        )
    return judges[:1] if telling is judges[0] else [judges[0], telling]


def select_suite(split: Split, settings: RunSettings) -> Suite:
    """What every trial is asked: of an edit's own pairs nothing."""
    return make_suite(split, (), (), settings.evaluate.model_copy(update={"seen": 0, "cross": 0}))


class SelectSplit:
    """The questions of the select split, bare and attacked, and its safe prompts, asked of one model again and again.

    Make it while the model is unedited.
    """

    def __init__(
        self,
        chat: ChatModel,
        split: Split,
        judges: Sequence[Judge],
        settings: RunSettings,
        progress: Progress | None = None,
    ) -> None:
        self._chat, self._judges = chat, judges
        self._options, self._progress = settings.evaluate, progress
        self._suite = select_suite(split, settings)
        self._unchanged = UnchangedLayers(chat.blocks, candidate_layers(settings.locate, chat.layers)[0])
        responses = self._responses()
        answers = {one.prompt_id: one.answer for one in responses if one.group == Kind.HARMLESS.value and one.answer}
        if not answers:
            raise PkeditError(
                f"{chat.name} answers none of the harmless prompts, so nothing can be kept; "
                "is it a chat model, and its chat template the right one?"
            )
        prompts = self._suite.groups[Kind.HARMLESS.value]
        self._meter = DriftMeter(
            chat,
            [Demonstration(one, answers[one.id]) for one in prompts if one.id in answers],
            limit=self._options.max_new_tokens,
        )
        self.vanilla = self._scores(responses, drift_metrics(self._meter.original())["kl"])

    def scores(self, delta: Delta) -> Scores:
        """The figures of the model under a delta.

        Raises:
            TrialFailed: KL is NaN or Inf, or no answer could be judged.
        """
        with delta.applied_to(self._chat):
            drift = self._meter.measure()
            # Before the answers, which take longer and would only be called babble.
            if not all(map(math.isfinite, (*drift.divergence, *drift.negative_log_likelihood))):
                raise TrialFailed("the edited model's probabilities are NaN or Inf")
            responses = self._responses()
        return self._scores(responses, drift_metrics(drift)["kl"])

    def _responses(self) -> list[Response]:
        answers = self._chat.generate(
            [prompt.text for _, prompt in self._suite.prompts],
            max_new_tokens=self._options.max_new_tokens,
            batch_size=self._options.batch_size,
            unchanged=self._unchanged,
            progress=self._progress,
        )
        return judged(self._suite, [GivenAnswer(answer) for answer in answers], self._judges, arm="trial")

    def _scores(self, responses: Sequence[Response], kl: Metric) -> Scores:
        found = {**rates(responses, self._judges), "kl": kl}
        # By the judge that knows refusals, where that is not the first.
        found = {**{name.partition(":")[0]: metric for name, metric in reversed(found.items())}, **found}
        missing = [name for name in OBJECTIVES if name not in found]
        if missing:
            raise TrialFailed(f"not measured, for no answer was judged: {', '.join(missing)}")
        return {name: _recorded(found[name]) for name in OBJECTIVES}


def _recorded(metric: Metric) -> RecordedMetric:
    bounds = {name: None if math.isnan(value) else value for name, value in asdict(metric).items()}
    return RecordedMetric.model_validate(bounds)
