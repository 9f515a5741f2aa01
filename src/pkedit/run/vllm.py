"""Measures a saved model on the prompts of a run, asked through vLLM: what answers alone can tell."""

import time
from collections.abc import Sequence
from pathlib import Path

from pkedit.errors import PkeditError
from pkedit.evaluate.measure import GivenAnswer, Measurement, judged, rates, text_metrics
from pkedit.evaluate.suite import Suite
from pkedit.judges.base import Judge
from pkedit.models.vllm_engine import VllmEngine
from pkedit.observer import Observer
from pkedit.run.data import asked_pairs, run_suite
from pkedit.run.folder import RunFolder
from pkedit.run.measuring import Measuring, harmless_answers
from pkedit.run.record import RunRecord
from pkedit.run.stored import read_measurement, write_measurement
from pkedit.settings import RunSettings


def evaluate_by_vllm(settings: RunSettings, out: str | Path, *, observer: Observer) -> RunRecord:
    """Asks the model everything, as the arm `vanilla`, and judges the answers. No KL, perplexity or tasks.

    With `settings.adapter` it is asked everything once more under that adapter, as the arm `pke`.

    Args:
        settings: which model, prompts and judges.
        out: the run folder, new or to be resumed.
        observer: told of stages and steps.

    Raises:
        PkeditError: a delta or a quantisation is asked for, which vLLM cannot apply.
        ModelLoadError: vLLM is not installed, or does not load the model or the adapter.
        RunFolderError: the folder holds another run.
    """
    if settings.delta is not None:
        raise PkeditError("vLLM cannot apply a delta; save the edited model first (pkedit export) and name that folder")
    if settings.quantisation is not None:
        raise PkeditError(
            "--load-in is of the engine transformers; vLLM loads what is quantised already; leave --load-in out"
        )
    arms = ("vanilla",) if settings.adapter is None else ("vanilla", "pke")
    settings = settings.model_copy(update={"arms": arms})
    with RunFolder.open(out, settings) as folder:
        return _VllmEvaluation(folder, settings, observer, None).measured()


class _VllmEvaluation(Measuring):
    def measured(self) -> RunRecord:
        arms = self._settings.arms
        if not all(self._folder.finished(f"measure {arm}") for arm in arms):
            # A judge that cannot be had is found before the model is loaded.
            judges = self.judges
            self._check_keys()
            suite = run_suite(self._splits, asked_pairs(self._splits, self._settings), self._settings)
            engine = self._engine()
            for arm in arms:
                if not self._folder.finished(f"measure {arm}"):
                    with self.stage(f"measure {arm}"):
                        self._measure(engine, suite, judges, arm)
        self._combine({arm: read_measurement(self._folder, arm, self.judges) for arm in arms})
        self._folder.save()
        return self._folder.record

    def _engine(self) -> VllmEngine:
        self._observer.stage("load")
        started = time.perf_counter()
        engine = VllmEngine(
            self._settings.model,
            dtype=self._settings.dtype,
            chat_template=self._settings.chat_template,
            trust_remote_code=self._settings.trust_remote_code,
            adapter=self._settings.adapter,
        )
        self._folder.record.model_note = engine.reason
        self.finish("load", started)
        return engine

    def _measure(self, engine: VllmEngine, suite: Suite, judges: Sequence[Judge], arm: str) -> None:
        texts = [prompt.text for _, prompt in suite.prompts]
        limit = self._settings.evaluate.max_new_tokens
        given = [GivenAnswer(text) for text in engine.generate(texts, max_new_tokens=limit, edited=arm != "vanilla")]
        responses = judged(suite, given, judges, arm=arm, progress=self._observer.step)
        original = {} if arm == "vanilla" else self._original()
        metrics = rates(responses, judges) | text_metrics(responses, original)
        write_measurement(self._folder, arm, Measurement(metrics, tuple(responses), None))

    def _original(self) -> dict[str, str]:
        return harmless_answers(read_measurement(self._folder, "vanilla", self.judges))
