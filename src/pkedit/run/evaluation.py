"""Measures a model as it is, and beside it a delta that was made earlier, without locating or editing anything.

A model behind an endpoint is asked the same prompts and judged by the same judges.
"""

import shutil
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.errors import PkeditError, RunFolderError
from pkedit.models.chat import ChatModel
from pkedit.models.remote_endpoint import is_remote
from pkedit.observer import Observer, Silent
from pkedit.run.data import asked_pairs
from pkedit.run.folder import RunFolder
from pkedit.run.measuring import Measuring
from pkedit.run.record import RunRecord
from pkedit.run.remote import evaluate_remote
from pkedit.run.vllm import evaluate_by_vllm
from pkedit.settings import RunSettings


def evaluate(
    settings: RunSettings,
    out: str | Path,
    *,
    observer: Observer | None = None,
    chat: ChatModel | None = None,
) -> RunRecord:
    """Measures the vanilla arm, and with `settings.delta` the model under that delta as the arm `pke`.

    The prompts are those of `run` with the same settings. The delta is copied into the run folder. A remote model
    (`openai:MODEL`, `anthropic:MODEL`, or any with `settings.api_base`) has answers only: no KL, perplexity or tasks;
    so has one that is asked through vLLM (`settings.engine`).

    Args:
        settings: `arms` is set by whether there is a delta.
        out: the run folder, new or to be resumed.
        observer: told of stages and steps.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.

    Raises:
        DeltaError: not a delta, or one of another base model.
        RunFolderError: the folder holds another run, or another delta.
        RemoteModelError: the remote model cannot be asked, or a delta is given for it.
        PkeditError: an adapter is given for something else than vLLM.
    """
    if settings.adapter is not None and (settings.engine != "vllm" or is_remote(settings.model, settings.api_base)):
        raise PkeditError("--adapter goes with --engine vllm; elsewhere an edit is measured by its --delta")
    if is_remote(settings.model, settings.api_base):
        return evaluate_remote(settings, out, observer=observer or Silent())
    if settings.engine == "vllm":
        return evaluate_by_vllm(settings, out, observer=observer or Silent())
    arms = ("vanilla",) if settings.delta is None else ("vanilla", "pke")
    settings = settings.model_copy(update={"arms": arms})
    if settings.delta is not None:
        Delta.load(settings.delta)
    with RunFolder.open(out, settings) as folder:
        if settings.delta is not None:
            _take_over(folder, Path(settings.delta))
        return _Evaluation(folder, settings, observer or Silent(), chat).measured()


class _Evaluation(Measuring):
    """The measuring stages of a run; the prompts that an edit would have learnt from are only asked."""

    def measured(self) -> RunRecord:
        self.check()
        if self._settings.delta is not None and not self._folder.finished("measure pke"):
            # Before the model is asked anything as it is, which takes minutes.
            Delta.load(self._settings.delta).check(self.chat)
        self._pairs = asked_pairs(self._splits, self._settings)
        self.measure_arms(self._settings.arms)
        self._folder.save()
        return self._folder.record


def _take_over(folder: RunFolder, source: Path) -> None:
    """Copies the delta into the run folder, so that the folder shows what was measured."""
    own = folder.arm_file("pke", "delta.safetensors")
    if not own.exists():
        partial = own.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.replace(own)
    elif own.read_bytes() != source.read_bytes():
        raise RunFolderError(f"{folder.path} was made with another delta than {source} is now; give another --out")
