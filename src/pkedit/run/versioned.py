"""Reads a record from disk: of this schema version, whole, and without a field that this pkedit does not know."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pkedit.errors import RunFolderError, first_line

Record = TypeVar("Record", bound=BaseModel)


def read_versioned(path: Path, kind: type[Record], version: int, *, remedy: str) -> Record:
    """The record in a JSON file.

    Args:
        path: the file.
        kind: of the record.
        version: the `schema_version` that can be read.
        remedy: what to do about a file that cannot.

    Raises:
        RunFolderError: absent, damaged, of another version, or with unknown fields.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("schema_version")
        if found != version:
            raise RunFolderError(f"{path}: schema version {found}, and this pkedit reads {version}; {remedy}")
        return kind.model_validate(content)
    except (OSError, ValueError, AttributeError, RecursionError, ValidationError) as error:
        raise RunFolderError(f"{path}: damaged ({first_line(error)}); {remedy}") from None
