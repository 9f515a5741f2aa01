"""What is talked to: one copy of a model, and the edit that can act on it at any strength."""

import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pkedit.edit.delta import Delta
from pkedit.export.opened import open_edit
from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.run.model import load_by
from pkedit.visible import visible


class Subject:
    """A model with an edit that does not act unless it is asked to.

    The edit is written into the weights for one step and taken out again. That costs a few milliseconds, is bit for
    bit what an exported model would compute, and leaves the weights as they were between any two steps.
    """

    def __init__(self, chat: ChatModel, delta: Delta, *, source: str) -> None:
        """`source` is where the edit comes from, for people.

        Raises:
            DeltaError: the edit was made for another model.
        """
        delta.check(chat)
        self.chat = chat
        self.delta = delta
        self.source = source
        self._turn = threading.Lock()

    @property
    def title(self) -> str:
        """Model and edit in one line."""
        name = Path(self.chat.name).name if Path(self.chat.name).exists() else self.chat.name
        layers = len({layer.layer for layer in self.delta.layers})
        return visible(
            f"{name} · {self.source} · {len(self.delta)} edited neurons in {layers} layers · "
            f"{self.chat.device}, {str(self.chat.dtype).removeprefix('torch.')}"
        )

    @contextmanager
    def speaking(self, strength: float) -> Generator[None]:
        """The model with the edit at this strength, 0 being the model as it is; nobody else has it meanwhile."""
        with self._turn, (self.delta * strength).applied_to(self.chat) if strength else nullcontext():
            yield


def open_run(folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False) -> Subject:
    """The model and the edit of a finished run.

    Args:
        folder: a run folder.
        device: where to load the model; the run's own choice if absent.
        trust_remote_code: whether code that the model brings with it may run; what the run was told does not count.

    Raises:
        RunFolderError: not a run folder, or one without an edit.
        ModelLoadError: the model cannot be loaded any more.
        DeltaError: the edit is damaged, or the model has changed.
    """
    folder = Path(folder)
    record, delta = open_edit(folder, "talk to")
    settings = record.settings
    chat = load_by(
        settings,
        device=device or settings.device,
        dtype=settings.dtype if settings.quantisation else delta.dtype,
        trust_remote_code=trust_remote_code,
    )
    return Subject(chat, delta, source=f"run {folder.resolve().name}")


def open_delta(path: str | Path, model: str | None, **loading: Any) -> Subject:
    """A model under an edit from a file.

    Args:
        path: a `delta.safetensors`.
        model: as `load_model` takes it; the base that the file names if absent.
        loading: more for `load_model`.

    Raises:
        ModelLoadError: the model cannot be loaded.
        DeltaError: the edit is damaged, or was made for another model.
    """
    delta = Delta.load(path)
    chat = load_model(model or delta.base, dtype=delta.dtype, **loading)
    return Subject(chat, delta, source=f"edit {Path(path).name}")
