"""Ctrl-C and SIGTERM: what is finished stays, and the last line says how to go on."""

import shlex
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It unwinds as Ctrl-C does."""


class Stopped(BaseException):
    """A command was stopped from outside.

    `out`: the folder in which its finished stages are, if it keeps any. `left`: what is left to do, where that is not
    the same command once more.
    """

    def __init__(self, code: int, out: Path | None, left: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.out = out
        self.left = left


@contextmanager
def stoppable(out: Path | None = None, left: str | None = None) -> Generator[None]:
    """Turns an interruption inside into `Stopped`, which knows the run folder, or what is left to do."""
    try:
        yield
    except KeyboardInterrupt as signalled:
        raise Stopped(TERMINATED if isinstance(signalled, Terminated) else INTERRUPTED, out, left) from None


@contextmanager
def terminated_as_interrupted() -> Generator[None]:
    """SIGTERM unwinds the program meanwhile, so that files and models are left as Ctrl-C leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped_message(arguments: Sequence[str], code: int, out: Path | None, left: str | None = None) -> str:
    """What happened, what is kept, and the command that goes on.

    Args:
        arguments: of the command line, without the program's name.
        code: the exit code.
        out: the run folder, for a command that can be resumed.
        left: what is left to do instead of the same command, for one that was nearly done.
    """
    what = "stopped by SIGTERM" if code == TERMINATED else "interrupted"
    if left is not None:
        return f"{what}. {left}"
    if out is None:
        return f"{what}; run it again with: {command_line(arguments)}"
    if not any(part == "--out" or part.startswith("--out=") for part in arguments):
        arguments = [*arguments, "--out", str(out)]
    return f"{what}; what was finished is kept in {out}, go on with: {command_line(arguments)}"


def command_line(arguments: Sequence[str]) -> str:
    """The command as a shell takes it."""
    return shlex.join(["pkedit", *arguments])
