"""What a run was given, by its content: files of prompts, a delta, a chat template, and the model's weights."""

import hashlib
from pathlib import Path
from typing import Any

from pkedit.models.loading import config_source
from pkedit.prompts import PRESETS
from pkedit.prompts.fetching import fetch
from pkedit.run.record import file_sha256
from pkedit.settings import RunSettings

PROMPT_FILES = ("harmful", "harmless", "borderline", "attacks")
OTHER_FILES = ("delta", "chat_template")
WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin")


def input_files(settings: RunSettings) -> dict[str, Path]:
    """The files that the settings name and that are there, by the setting's name. Presets are fetched.

    Raises:
        PromptFileError: a preset cannot be had.
    """
    found = {}
    for name in (*PROMPT_FILES, *OTHER_FILES):
        value = getattr(settings, name)
        if value is None:
            continue
        if name in PROMPT_FILES and value in PRESETS:
            found[name] = fetch(value, PRESETS[value].file)
        elif Path(value).is_file():
            found[name] = Path(value)
    return found


def hash_inputs(settings: RunSettings) -> dict[str, str]:
    """The SHA-256 of each of `input_files`."""
    return {name: file_sha256(path) for name, path in input_files(settings).items()}


def weights_identity(name: str, model: Any) -> str | None:
    """What tells a model's weights from others of the same name: a revision on the Hub, or the SHA-256 of its files.

    Several files have one for all: that of their names and sums. None where neither is known.
    """
    revision = getattr(model.config, "_commit_hash", None)
    if revision is not None:
        return f"revision {revision}"
    source, extra = config_source(name)
    folder = Path(source)
    if "gguf_file" in extra:
        return f"sha256 {file_sha256(folder / extra['gguf_file'])}"
    files = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}) if folder.is_dir() else []
    if len(files) < 2:
        return f"sha256 {file_sha256(files[0])}" if files else None
    sums = "".join(f"{path.name} {file_sha256(path)}\n" for path in files)
    return f"sha256 {hashlib.sha256(sums.encode()).hexdigest()} of {len(files)} files"
