"""Finds a public file: in the user's own folder, in a cache, or on the network, always of one pinned revision."""

import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pkedit.errors import PromptFileError

DATA_VARIABLE = "PKEDIT_DATA"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class PublicFile:
    """A file of a data set on the Hugging Face Hub or of a GitHub repository, at one commit."""

    host: Literal["hub", "github"]
    repository: str
    path: str
    revision: str
    gated: bool = False

    @property
    def page(self) -> str:
        """Where a person finds the repository."""
        return f"https://{'huggingface.co/datasets' if self.host == 'hub' else 'github.com'}/{self.repository}"


def fetch(name: str, file: PublicFile) -> Path:
    """The file on this machine: `$PKEDIT_DATA/NAME/FILENAME` if it is there, else downloaded or from the cache.

    Raises:
        PromptFileError: it is nowhere; the message names the file, the page, the place to put it and, for a gated
            set, how to get access.
    """
    # HTTPError is that of the Hub's own HTTP client, which has changed its package before.
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

    own = _own_copy(name, file)
    if own is not None and own.is_file():
        return own
    try:
        return _from_hub(file) if file.host == "hub" else _from_github(file)
    # No access, no connection, switched off: nearly all are OSErrors, urllib's too. A connection cut is an HTTPError.
    except (OSError, HTTPError, EntryNotFoundError) as error:
        raise PromptFileError(_not_there(name, file, own, error)) from None


def _own_copy(name: str, file: PublicFile) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder).expanduser() / name / Path(file.path).name if folder else None


def _from_hub(file: PublicFile) -> Path:
    import huggingface_hub

    return Path(
        huggingface_hub.hf_hub_download(
            file.repository, file.path, repo_type="dataset", revision=file.revision, library_name="pkedit"
        )
    )


def _from_github(file: PublicFile) -> Path:
    """Kept under the user's cache folder, by revision. Written under another name first: a half file never counts."""
    import huggingface_hub

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pkedit"
    path = cache / file.repository / file.revision / file.path
    if path.is_file():
        return path
    if huggingface_hub.is_offline_mode():
        raise ConnectionError("the network is switched off by HF_HUB_OFFLINE")
    url = f"https://raw.githubusercontent.com/{file.repository}/{file.revision}/{file.path}"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        content = answer.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(content)
    Path(part.name).replace(path)
    return path


def _not_there(name: str, file: PublicFile, own: Path | None, error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    reason = next((line.rstrip(".") for line in lines if line), type(error).__name__)
    put = f"put the file at {own}"
    if own is None:
        put = f"put the file at FOLDER/{name}/{Path(file.path).name} and set {DATA_VARIABLE} to FOLDER"
    access = ""
    if file.gated:
        access = (
            f" The set is gated: accept its conditions at {file.page} with a Hugging Face account, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    return (
        f"preset {name}: {file.path} of {file.page} (revision {file.revision[:7]}) could not be had: {reason}.{access} "
        f"Without a network, {put}, or give a file of your own in place of the preset's name"
    )
