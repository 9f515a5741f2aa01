"""What the last line says when a command fails: what happened, why, what to do. A bug's traceback goes into a file."""

import errno
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, python_version

import typer

from pkedit.errors import PkeditError, first_line
from pkedit.stopping import command_line

BUG, MISTAKE = 1, 2
MEMORY_ADVICE = "not enough memory; try --dtype bfloat16, a smaller model, or fewer --pairs and --demonstrations"
ADVICE = {
    errno.ENOSPC: "free some space, then the same command goes on",
    errno.EACCES: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file",
}
VERSIONS = ("pkedit", "torch", "transformers", "tokenizers", "safetensors", "typer")


def failure(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """The line to print and the exit code: `MISTAKE` for what the user can mend, `BUG` for what only we can."""
    told = _mendable(error)
    if told is not None:
        return told, MISTAKE
    if "--verbose" in arguments:
        traceback.print_exception(error)
        where = "the traceback is above"
    else:
        where = f"the traceback is in {_saved(error, arguments)}"
    said = f"{type(error).__name__}: {first_line(error)}".removesuffix(f": {type(error).__name__}")
    return f"a fault in pkedit ({said}); {where}: please report it, with the command, where you got pkedit from", BUG


def _mendable(error: Exception) -> str | None:
    """One line for a user's mistake or a lack of memory or of files; None for anything else, which is a bug."""
    if isinstance(error, PkeditError):
        return str(error)
    if isinstance(error, typer.BadParameter.__mro__[1]):
        return f"{error.format_message()} (see pkedit --help)"  # type: ignore[attr-defined]
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        return _invalid_setting(error)
    if isinstance(error, MemoryError):
        return MEMORY_ADVICE
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return MEMORY_ADVICE
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return MEMORY_ADVICE
    return _of_the_system(error) if isinstance(error, OSError) else None


def _of_the_system(error: OSError) -> str:
    """What the system refused, of which file, and what may help."""
    said = error.strerror or first_line(error)
    advice = ADVICE.get(error.errno or 0, "see to that, then the same command goes on")
    return f"{f'{error.filename}: ' if error.filename else ''}{said[0].lower()}{said[1:]}; {advice}"


def _invalid_setting(error: Exception) -> str:
    """All faults of the settings in one line: which setting, what is wrong, what was given."""
    faults = []
    for fault in error.errors():  # type: ignore[attr-defined]
        place = ".".join(str(part) for part in fault["loc"])
        faults.append(f"setting {place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}")
    return f"{'; '.join(faults)} (see pkedit run --help)"


def _saved(error: Exception, arguments: Sequence[str]) -> Path:
    """The file that holds the traceback, the command and the versions. No prompts or answers are in it."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="pkedit-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(f"{command_line(arguments)}\n{_versions()}\n\n")
        traceback.print_exception(error, file=file)
    return Path(file.name)


def _versions() -> str:
    found = [f"Python {python_version()}", platform()]
    for package in VERSIONS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)
