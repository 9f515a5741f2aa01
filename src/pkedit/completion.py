"""What the shell offers behind Tab: arms, judges, presets, models, run folders. No torch, and nothing slow.

Each function gets what has been typed of a value, `incomplete`, and gives the values that may follow. Where it gives
none, the shell offers files.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

JUDGES = ("rules", "embedded", "guard:", "remote:")
DEVICES = ("cpu", "cuda", "auto")
DTYPES = ("float32", "bfloat16", "float16")


def one_of(*values: str) -> Callable[[str], list[str]]:
    """One of a few words."""
    return lambda incomplete: _beginning(incomplete, values)


def list_of(*values: str) -> Callable[[str], list[str]]:
    """Words with commas between, each once."""

    def complete(incomplete: str) -> list[str]:
        chosen, comma, last = incomplete.rpartition(",")
        return [f"{chosen}{comma}{word}" for word in _beginning(last, values) if word not in chosen.split(",")]

    return complete


def presets(kind: str) -> Callable[[str], list[str]]:
    """The published data sets that hold prompts of this kind."""

    def complete(incomplete: str) -> list[str]:
        from pkedit.prompts.presets import preset_names

        return _beginning(incomplete, preset_names(kind))

    return complete


def models(incomplete: str) -> list[str]:
    """The embedded model, models in the Hub's cache, and model folders and GGUF files below what is incomplete."""
    cached = (path.name.removeprefix("models--").replace("--", "/") for path in hub_cache().glob("models--*--*"))
    return [*_beginning(incomplete, ("smollm2", *sorted(cached))), *_paths(incomplete, _is_model)]


def run_folders(incomplete: str) -> list[str]:
    """Folders with a run: those in `runs` where nothing is incomplete, else those below what is."""
    return list(_paths(incomplete or "runs/", lambda path: (path / "run.json").is_file()))


def hub_cache() -> Path:
    """Where huggingface_hub keeps models, by its rules, which importing it would take a while to ask."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> Iterable[str]:
    """Wanted paths that begin as incomplete, and the folders on the way to others, with a slash."""
    folder, _, begun = incomplete.rpartition("/")
    above = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".").expanduser()
    shown = f"{folder}/" if folder or incomplete.startswith("/") else ""
    if not above.is_dir() or not os.access(above, os.R_OK):
        return
    for path in sorted(above.iterdir()):
        if not path.name.startswith(begun) or (path.name.startswith(".") and not begun):
            continue
        if wanted(path):
            yield shown + path.name
        elif incomplete and path.is_dir():
            yield f"{shown}{path.name}/"


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
