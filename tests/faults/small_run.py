"""A run of three arms with a tiny model, here or in a process that is to be killed, and what two runs must share."""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerFast

from pkedit.models.chat import ChatModel
from pkedit.run.pipeline import Until, run
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import make_chat

SETTINGS = RunSettings.model_validate(
    {
        **SMALL,
        "arms": ["vanilla", "dinm", "pke"],
        "pairs": 4,
        "demonstrations": 4,
        "locate": {**SMALL["locate"], "pairs": 2},
        "edit": {**SMALL["edit"], "harmless_tokens": 2},
        "evaluate": {
            **{"seen": 1, "cross": 1, "unseen": 2, "harmless": 3, "long": 1, "borderline": 2, "max_new_tokens": 4},
            **{"judges": ["rules"], "capability": []},
        },
    }
)


@dataclass
class Log:
    """Which stages began, told to a file as well, so that it outlives the process."""

    file: Path | None = None
    begun: list[str] = field(default_factory=list)

    def stage(self, name: str) -> None:
        self.begun.append(name)
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(f"{name}\n")

    def step(self, done: int, total: int, note: str = "") -> None: ...


class _RenderedHere(PreTrainedTokenizerFast):
    """Its chat template is rendered in this process: a forked one would have to start one of its own beside it."""

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        return super().apply_chat_template(*arguments, **options)


@cache
def tiny_chat() -> ChatModel:
    """The model of all small runs; each gives it back unedited."""
    chat = make_chat(max_position_embeddings=2048)
    chat.tokenizer.__class__ = _RenderedHere
    return chat


def run_small(folder: Path, *, until: Until = "measure", observer: Any = None) -> RunRecord:
    """Runs or resumes it in this process."""
    return run(SETTINGS, folder, until=until, observer=observer, chat=tiny_chat())


def numbers(folder: Path) -> dict[str, Any]:
    """All that a run found: its record without times and memory, and the bytes of every other file."""
    record = json.loads((folder / "run.json").read_text())
    for name in ("created", "command", "sha256"):
        del record[name]
    record["stages"] = sorted(record["stages"])
    # Somebody may commit while this goes on.
    record["versions"].pop("commit", None)
    others = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    files = {str(path.relative_to(folder)): path.read_bytes() for path in others if path != folder / "run.json"}
    return {"record": record, **files}


def different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs between two runs."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def finished(folder: Path) -> set[str]:
    """The stages that the folder says are done; none where there is no record yet."""
    return set(RunRecord.load(folder).stages) if (folder / "run.json").is_file() else set()


def killed(work: Callable[[], object], *, after: float | None = None) -> bool:
    """Does `work` in a process of its own, killed by SIGKILL after so many seconds or by itself; whether it was."""
    child = os.fork()
    if child == 0:
        _work_and_leave(work)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("the process that was to be killed failed by itself; its traceback is above")
    return False


def kill_myself() -> NoReturn:
    """Ends this process as a power switch would: nothing is unwound, flushed or closed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("still there")


def _work_and_leave(work: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)
