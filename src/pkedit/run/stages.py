"""What every run shares: its folder, the model, and timed stages."""

import resource
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch

from pkedit.errors import OtherRunError
from pkedit.models.chat import ChatModel
from pkedit.models.memory import give_back_freed_memory
from pkedit.observer import Observer
from pkedit.prompts import ContrastPair
from pkedit.run.data import read_splits
from pkedit.run.folder import RunFolder
from pkedit.run.inputs import weights_identity
from pkedit.run.model import load_by
from pkedit.run.record import StageRecord
from pkedit.settings import RunSettings


class Stages:
    """What every run shares: the folder, the model, and timed stages."""

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
            self._chat = load_by(self._settings)
            self._remember_model(self._chat)
            self.finish("load", started)
        self._folder.record.model_note = self._chat.reason
        return self._chat

    def _remember_model(self, chat: ChatModel) -> None:
        """Into the record: which weights these are, and what they are computed with.

        Raises:
            OtherRunError: stages were finished with other weights of the same name.
        """
        record, name = self._folder.record, self._settings.model
        identity = weights_identity(name, chat.model)
        if identity is not None:
            if record.stages and record.inputs.get("model", identity) != identity:
                raise OtherRunError(self._folder.path, [f"the weights of {name}"])
            record.inputs["model"] = identity
        record.hardware["threads"] = torch.get_num_threads()
        if chat.device.type == "cuda":
            record.hardware["accelerator"] = torch.cuda.get_device_name(chat.device)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        self._observer.stage(name)
        started = time.perf_counter()
        yield
        self.finish(name, started)

    def finish(self, name: str, started: float) -> None:
        """Marks a stage as done; only now is it skipped by a later run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        # No clock is trusted to go forwards only.
        seconds = max(0.0, round(time.perf_counter() - started, 2))
        self._folder.record.stages[name] = StageRecord(seconds=seconds, peak_memory=peak)
        self._folder.finish(name)
        give_back_freed_memory()
