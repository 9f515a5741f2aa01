"""Measures a model behind an OpenAI-compatible endpoint on the prompts of a run, with the judges of a run."""

import time
from pathlib import Path

from pkedit.evaluate.measure import GivenAnswer, Measurement, judged, rates, text_metrics
from pkedit.judges.base import Judgement, Verdict
from pkedit.models.remote import AnswerStatus, RemoteAnswer, RemoteModel, RemoteModelError
from pkedit.models.remote_cache import default_cache_folder
from pkedit.observer import Observer
from pkedit.run.data import asked_pairs, run_suite
from pkedit.run.folder import RunFolder
from pkedit.run.measuring import Measuring
from pkedit.run.record import RunRecord
from pkedit.run.stored import read_measurement, write_measurement
from pkedit.settings import RunSettings


def evaluate_remote(
    settings: RunSettings, out: str | Path, *, observer: Observer, model: RemoteModel | None = None
) -> RunRecord:
    """Asks the remote model everything, as the arm `vanilla`, and judges the answers.

    What the provider's filter held back counts as refused. Where no answer came, the prompt is unjudged and counted
    as such, and the same call asks for it again. Answers are cached: a killed run goes on, a second one costs nothing.

    Args:
        settings: which model, prompts and judges.
        out: the run folder, new or to be resumed.
        observer: told of stages and steps.
        model: made by the settings if absent.

    Raises:
        RemoteModelError: the model cannot be asked, or a delta is given.
        RunFolderError: the folder holds another run.
    """
    if settings.delta is not None:
        raise RemoteModelError(
            f"{settings.model} is behind an endpoint, and a delta needs the weights; leave --delta out"
        )
    settings = settings.model_copy(update={"arms": ("vanilla",)})
    with RunFolder.open(out, settings) as folder:
        model = model or RemoteModel(
            settings.model,
            api_base=settings.api_base,
            cache=default_cache_folder(),
            concurrency=settings.concurrency,
            temperature=settings.temperature,
        )
        return _RemoteEvaluation(folder, settings, observer, None).measured(model)


class _RemoteEvaluation(Measuring):
    def measured(self, model: RemoteModel) -> RunRecord:
        suite = run_suite(self._splits, asked_pairs(self._splits, self._settings), self._settings)
        if not self._folder.finished("measure vanilla"):
            # A judge that cannot be had is found before anything is paid for.
            judges = self.judges
            self._check_keys()
            self._observer.stage("measure vanilla")
            started = time.perf_counter()
            texts = [prompt.text for _, prompt in suite.prompts]
            answers = model.ask(
                texts, max_new_tokens=self._settings.evaluate.max_new_tokens, progress=self._observer.step
            )
            responses = judged(
                suite, [_given(answer) for answer in answers], judges, arm="vanilla", progress=self._observer.step
            )
            # An answer that never came, or was held back, is no text that could be fluent.
            said = [
                response
                for response, answer in zip(responses, answers, strict=True)
                if answer.status is AnswerStatus.ANSWERED
            ]
            metrics = rates(responses, judges) | text_metrics(said, {})
            write_measurement(self._folder, "vanilla", Measurement(metrics, tuple(responses), None))
            self._add_usage(model)
            # Where answers are missing the same call asks for them again, and for nothing else.
            if all(answer.status is not AnswerStatus.FAILED for answer in answers):
                self.finish("measure vanilla", started)
        self._combine({"vanilla": read_measurement(self._folder, "vanilla", self.judges)})
        self._folder.record.model_note = f"{model.endpoint.base_url}, by its API"
        self._folder.save()
        return self._folder.record


def _given(answer: RemoteAnswer) -> GivenAnswer:
    if answer.status is AnswerStatus.FILTERED:
        return GivenAnswer(answer.text, Verdict(Judgement.REFUSED, f"held back by the provider: {answer.reason}"))
    if answer.status is AnswerStatus.FAILED:
        return GivenAnswer(answer.text, Verdict(Judgement.UNJUDGED, f"no answer: {answer.reason}"))
    return GivenAnswer(answer.text)
