"""A tiny model with an edit to talk to, for the tests of this folder."""

from pathlib import Path

import torch

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.models.chat import ChatModel
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from pkedit.talk.subject import Subject
from tiny import make_chat, make_region, save_chat

QUESTION = "w3 w14 w15 w92"
LIMIT = 8


def make_delta(chat: ChatModel) -> Delta:
    """An edit strong enough to change what a random model says."""
    hooked = HookedDelta(chat, make_region({0: [2, 5], 1: [0, 7, 23]}), ("write", "read0"))
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(generator=generator).mul_(2.0)
    return hooked.freeze()


def make_subject(family: str = "llama", **options: int) -> Subject:
    """A random model with its edit."""
    chat = make_chat(family, **options)
    return Subject(chat, make_delta(chat), source="test")


def plain(subject: Subject, question: str = QUESTION, *, strength: float = 0.0, limit: int = LIMIT) -> str:
    """What the project's own generation answers."""
    with (subject.delta * strength).applied_to(subject.chat):
        return subject.chat.generate([question], max_new_tokens=limit)[0]


def make_run(folder: Path) -> Path:
    """A run folder with a model beside it and an edit in it."""
    model = save_chat(folder / "model")
    run = folder / "run"
    run.mkdir()
    RunRecord(settings=RunSettings(model=str(model))).save(run)
    make_delta(make_chat()).save(run / "delta.safetensors")
    return run
