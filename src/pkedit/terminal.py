"""The two streams of the command line: results on standard output, progress, questions and errors on standard error.

No torch before `prepare`.
"""

import io
import json
import math
import os
import sys
import warnings
from typing import Any

import typer
from rich.console import Console

# Where nobody sets a width: room for a table of five metrics.
PLAIN_WIDTH = 120


def results() -> Console:
    """Where results go: standard output, as wide as the terminal or `PLAIN_WIDTH` in a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def messages() -> Console:
    """Where progress and questions go: standard error, so that results can be piped on."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else PLAIN_WIDTH)


def print_json(value: Any) -> None:
    """Prints one JSON document, in ASCII, so that no terminal's encoding can break it. NaN and Inf become null."""
    from pydantic_core import to_jsonable_python

    typer.echo(json.dumps(_finite(to_jsonable_python(value)), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """NaN and Inf as None, those inside pydantic models too."""
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def agreed(question: str, *, yes: bool) -> bool:
    """Whether the user agrees: `--yes` says so beforehand, and where nobody can be asked it is no."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(question, err=True)


def unbreakable_streams() -> None:
    """Shows what a stream's encoding lacks as escapes: a character of a model's answer must not end the program.

    Nor must a byte that was typed or piped in: what is no character reads as �.
    """
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != errors:
            stream.reconfigure(errors=errors)


def prepare(verbose: bool) -> None:
    """Quiets the libraries unless asked not to, and says what they keep in memory. Loads torch and transformers."""
    if not verbose:
        # Read when tqdm is imported; reading a GGUF file has a bar that nothing else turns off.
        os.environ.setdefault("TQDM_DISABLE", "1")
        import transformers
        from huggingface_hub.utils.tqdm import disable_progress_bars

        warnings.simplefilter("ignore")
        disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
    from pkedit.models.memory import keep_few_kernels, keep_freed_memory

    keep_freed_memory()
    keep_few_kernels()
