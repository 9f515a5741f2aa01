"""Small files beside a model's weights, in a folder or in a repository of the Hub."""

from pathlib import Path

from transformers.utils.hub import cached_file


def source_file(source: str, name: str) -> Path | None:
    """A file of a folder or of a repository; None where there is none, or it cannot be had now."""
    found = cached_file(
        source,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
