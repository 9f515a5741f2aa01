"""Measures a saved model on the prompts of a run, asked through vLLM: what answers alone can tell."""

import time
from pathlib import Path

from pkedit.errors import PkeditError
from pkedit.evaluate.measure import GivenAnswer, Measurement, judged, rates, text_metrics
from pkedit.models.vllm_engine import VllmEngine
from pkedit.run.data import asked_pairs, run_suite
from pkedit.run.folder import RunFolder
from pkedit.run.measuring import Measuring
from pkedit.run.record import RunRecord
from pkedit.run.stages import Observer
from pkedit.run.stored import read_measurement, write_measurement
from pkedit.settings import RunSettings


def evaluate_by_vllm(settings: RunSettings, out: str | Path, *, observer: Observer) -> RunRecord:
    """Asks the model everything, as the arm `vanilla`, and judges the answers. No KL, perplexity or tasks.

    Args:
        settings: which model, prompts and judges.
        out: the run folder, new or to be resumed.
        observer: told of stages and steps.

    Raises:
        PkeditError: a delta or a quantisation is asked for, which vLLM cannot apply.
        ModelLoadError: vLLM is not installed, or does not load the model.
        RunFolderError: the folder holds another run.
    """
    if settings.delta is not None:
        raise PkeditError("vLLM cannot apply a delta; save the edited model first (pkedit export) and name that folder")
    if settings.quantisation is not None:
        raise PkeditError("--load-in is of the engine transformers; vLLM loads what is quantised already")
    settings = settings.model_copy(update={"arms": ("vanilla",)})
    return _VllmEvaluation(RunFolder.open(out, settings), settings, observer, None).measured()


class _VllmEvaluation(Measuring):
    def measured(self) -> RunRecord:
        if not self._folder.finished("measure vanilla"):
            # A judge that cannot be had is found before the model is loaded.
            judges = self.judges
            self._check_keys()
            suite = run_suite(self._splits, asked_pairs(self._splits, self._settings), self._settings)
            self._observer.stage("load")
            started = time.perf_counter()
            engine = VllmEngine(
                self._settings.model,
                dtype=self._settings.dtype,
                chat_template=self._settings.chat_template,
                trust_remote_code=self._settings.trust_remote_code,
            )
            self._folder.record.model_note = engine.reason
            self.finish("load", started)
            with self.stage("measure vanilla"):
                texts = [prompt.text for _, prompt in suite.prompts]
                answers = engine.generate(texts, max_new_tokens=self._settings.evaluate.max_new_tokens)
                responses = judged(suite, [GivenAnswer(answer) for answer in answers], judges, arm="vanilla")
                metrics = rates(responses, judges) | text_metrics(responses, {})
                write_measurement(self._folder, "vanilla", Measurement(metrics, tuple(responses), None))
        self._combine({"vanilla": read_measurement(self._folder, "vanilla", self.judges)})
        self._folder.save()
        return self._folder.record
