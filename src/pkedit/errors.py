"""Errors a user can cause and mend. Each message says what happened and what to do next.

The command line prints them as one line, without a traceback, and exits with code 2.
"""

from collections.abc import Sequence
from pathlib import Path

SHOWN_DIFFERENCES = 4


class PkeditError(Exception):
    """Base of every error whose cause lies with the input or the machine, not with pkedit."""


class PromptFileError(PkeditError):
    """A prompt file is missing, empty or malformed; the message names file and line."""


class ModelLoadError(PkeditError):
    """A model could not be found, read or understood."""


class ChatTemplateError(PkeditError):
    """The model has no chat template, so a prompt cannot be put the way it was trained on."""


class RegionError(PkeditError):
    """A region is empty, or names neurons that the model does not have."""


class DeltaError(PkeditError):
    """A delta does not fit the model it is applied to, or its file is damaged."""


class TooFewPairsError(PkeditError):
    """Locating or editing was asked for with fewer than two contrast pairs."""


class NonFiniteLossError(PkeditError):
    """A loss became NaN or Inf. The model was restored before this was raised."""

    def __init__(self, step: int, term: str) -> None:
        super().__init__(
            f"the {term} loss became NaN or Inf at step {step}; the model is unchanged. "
            "Try a lower learning rate (--learning-rate) or float32 (--dtype float32)."
        )
        self.step = step
        self.term = term


class NonFiniteStatesError(PkeditError):
    """What passes through the model is NaN or Inf: more than its format can hold."""


class OutOfMemoryError(PkeditError):
    """Not enough memory, even with the smallest batch."""


class RunFolderError(PkeditError):
    """A run folder holds a run with other settings, or is not a run folder."""


class OtherRunError(RunFolderError):
    """A run folder holds finished stages of a run with other settings. `folder` may be moved aside."""

    def __init__(self, folder: Path, differing: Sequence[str]) -> None:
        shown = [*differing[:SHOWN_DIFFERENCES]]
        if len(differing) > len(shown):
            shown.append(f"and {len(differing) - len(shown)} more")
        self.happened = f"{folder} belongs to a run with other settings ({', '.join(shown)})"
        super().__init__(f"{self.happened}; give another --out, or --yes to move it aside and start anew")
        self.folder = folder


class NotAgreedError(PkeditError):
    """Something would cost money, and nobody agreed to it."""


class ExportError(PkeditError):
    """An edit cannot be written in the form that was asked for, or what was written is not the edit."""


class PushError(PkeditError):
    """Nothing can be uploaded; what was exported is still there."""


class TalkError(PkeditError):
    """A chat cannot go on: the question is too long, or the page cannot be served."""


def first_line(error: BaseException) -> str:
    """The first line that an error of a library says, for a message of one line; its kind where it says nothing.

    Of pydantic's, whose first line only counts, it is the first fault and its place.
    """
    if type(error).__module__.startswith("pydantic"):
        fault = error.errors()[0]  # type: ignore[attr-defined]
        place = ".".join(str(part) for part in fault["loc"]) or "content"
        # A place is a name from the file.
        return f"{place if place.isprintable() else repr(place)}"[:80] + f": {fault['msg'].lower()}"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
