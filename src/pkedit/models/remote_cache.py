"""Answers of remote models on disk, one file a request, so that no answer is paid for twice.

An entry is written whole or not at all and carries a checksum. Whatever is not a whole entry counts as absent:
a process killed at any moment, a full disk or a flipped bit costs one more request and never a wrong answer.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pkedit.models.remote_answer import AnswerStatus, RemoteAnswer
from pkedit.models.remote_endpoint import RemoteModelError


def default_cache_folder() -> Path:
    """Where answers are kept unless the user says otherwise: under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pkedit" / "remote"


@dataclass(frozen=True)
class Request:
    """All that decides an answer: endpoint, model, messages, parameters. The key does not belong to it."""

    base_url: str
    model: str
    messages: tuple[Mapping[str, str], ...]
    parameters: Mapping[str, float | int]

    def as_json(self) -> dict[str, Any]:
        """The request as it is hashed and stored."""
        return {
            "base_url": self.base_url,
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "parameters": dict(self.parameters),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the request."""
        return _sha256(self.as_json())


@dataclass(frozen=True)
class Cached:
    """What the cache holds for a request: an answer, nothing, or something that cannot be read any more."""

    answer: RemoteAnswer | None
    damaged: bool = False


class AnswerCache:
    """A folder of answers. Threads and processes may share it: the last whole entry of a request stays."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, request: Request) -> Path:
        """The file of a request. Two levels, so that no folder holds tens of thousands of files."""
        digest = request.digest
        return self.folder / digest[:2] / f"{digest}.json"

    def find(self, request: Request) -> Cached:
        """The stored answer, if a whole one is there.

        Raises:
            RemoteModelError: the folder cannot be read.
        """
        try:
            content = self.path(request).read_bytes()
        except FileNotFoundError:
            return Cached(None)
        except OSError as error:
            raise self._error("read", error) from None
        answer = _parsed(content, request)
        return Cached(answer, damaged=answer is None)

    def store(self, request: Request, answer: RemoteAnswer) -> None:
        """Keeps an answer. Failures are not answers.

        Raises:
            ValueError: the answer is a failure.
            RemoteModelError: the folder cannot be written.
        """
        if answer.status is AnswerStatus.FAILED:
            raise ValueError("a failure is never cached: the next run asks again")
        path = self.path(request)
        entry = {"request": request.as_json(), "answer": _as_json(answer)}
        content = json.dumps(entry | {"checksum": _sha256(entry)}, indent=1).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own for every writer: two threads or processes may hold the same answer.
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
                partial = Path(file.name)
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    partial.replace(path)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise self._error("write", error) from None

    def _error(self, verb: str, error: OSError) -> RemoteModelError:
        return RemoteModelError(f"cannot {verb} the cache of answers in {self.folder}: {error.strerror or error}")


def _as_json(answer: RemoteAnswer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "status": answer.status.value,
        "reason": answer.reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }


def _parsed(content: bytes, request: Request) -> RemoteAnswer | None:
    """The answer of an entry, or None when it is damaged or belongs to another request."""
    try:
        entry = json.loads(content)
        checksum = entry.pop("checksum")
        if checksum != _sha256(entry) or entry["request"] != request.as_json():
            return None
        fields = entry["answer"]
        return RemoteAnswer(**fields | {"status": AnswerStatus(fields["status"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
