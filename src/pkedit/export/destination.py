"""Where an export goes: a folder that is complete, or absent."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pkedit.errors import RunFolderError, first_line


def check_free(destination: Path) -> None:
    """That nothing would be overwritten.

    Raises:
        RunFolderError: `destination` holds something.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RunFolderError(f"{destination} is not empty; give another --to")


@contextmanager
def new_folder(destination: Path) -> Generator[Path]:
    """A folder to fill, moved to `destination` when the body ends well; otherwise nothing is left of it.

    Raises:
        RunFolderError: nothing can be written there. What the body raises is the body's.
    """
    with ExitStack() as stack:
        with _writing(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
            # Moved into place when complete: a folder that lacks half of its shards would still look like a model.
            partial = tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent)
            complete = Path(stack.enter_context(partial)) / "model"
            complete.mkdir()
        yield complete
        with _writing(destination):
            _let_read(complete)
            if destination.exists():
                destination.rmdir()
            shutil.move(complete, destination)


@contextmanager
def saving_weights() -> Generator[None]:
    """Says of weights that cannot be written that this is so.

    Raises:
        RunFolderError: a full disk, say, which safetensors tells as an error of its own.
    """
    try:
        yield
    except SafetensorError as error:
        raise RunFolderError(
            f"the weights cannot be written: {first_line(error)}; see to that, or give another --to"
        ) from None


@contextmanager
def _writing(destination: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot write {destination}: {error.strerror or error}; give another --to, or see to that"
        ) from None


def _let_read(folder: Path) -> None:
    """Gives all files the rights of any new file; those of weights come for their owner's eyes only."""
    probe = folder.with_suffix(".probe")
    probe.touch()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(probe.stat().st_mode)
