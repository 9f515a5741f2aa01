"""Reads rows from JSONL, JSON, CSV, TSV and Parquet files, one at a time, with the place of each for messages."""

import csv
import json
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

from pkedit.errors import PromptFileError, first_line

Source = Path | Traversable
Row = dict[str, Any]

# What one row is called in a message, and by that which file names are understood at all.
UNITS = {
    ".jsonl": "line",
    ".ndjson": "line",
    ".json": "item",
    ".csv": "line",
    ".tsv": "line",
    ".parquet": "row",
}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Rows of a Parquet file that are decoded together.
BATCH_ROWS = 1024


def read_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """The number and the columns of each row, from 1, in the order of the file.

    The number is that of the line in which a row begins (JSONL, CSV, TSV; the header of a CSV file is line 1), else
    that of the row. The suffix says the format. Everything but JSON arrays is read piece by piece.

    Raises:
        PromptFileError: the file is missing, empty, of another kind, not UTF-8 or malformed; the message names file
            and line.
    """
    if not source.is_file():
        raise PromptFileError(f"{source}: no such file; give one that ends in {', '.join(UNITS)}")
    suffix = suffix_of(source)
    if suffix == ".json":
        rows = _json_rows(source)
    elif suffix == ".parquet":
        rows = _parquet_rows(source)
    elif suffix in DELIMITERS:
        rows = _delimited_rows(source, DELIMITERS[suffix])
    else:
        rows = _json_lines(source)
    found = False
    for number, row in rows:
        found = True
        yield number, row
    if not found:
        raise PromptFileError(f"{source}: the file is empty; give at least one {UNITS[suffix]} of data")


def place(source: Source, number: int) -> str:
    """Where a row stands, as messages say it: `FILE, line 3`."""
    return f"{source}, {UNITS[suffix_of(source)]} {number}"


def suffix_of(source: Source) -> str:
    """The suffix that says the format of a file.

    Raises:
        PromptFileError: no format goes with the suffix.
    """
    suffix = Path(source.name).suffix.lower()
    if suffix not in UNITS:
        raise PromptFileError(f"{source}: files of this kind are not read; give one that ends in {', '.join(UNITS)}")
    return suffix


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    """Decoded lines with their ends. Split at \\n alone: U+2028 and the like may stand unescaped inside a text."""
    with source.open("rb") as stream:
        raw: bytes
        for number, raw in enumerate(stream, start=1):
            try:
                # Spreadsheets write a byte order mark in front of the first line.
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise PromptFileError(
                    f"{place(source, number)}: not UTF-8 text ({error.reason} at byte {error.start} of the line); "
                    "save the file as UTF-8"
                ) from None


def _json_lines(source: Source) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(source):
        if line.strip():
            yield number, _object(_parsed(line, place(source, number)), place(source, number))


def _json_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """Items of one array. Some call a file of JSON lines .json too: without a bracket in front it is read as that."""
    text = "".join(line for _, line in _lines(source))
    if not text.strip():
        return
    if text.lstrip().startswith("["):
        items = _parsed(text, str(source))
    else:
        items = [_parsed(line, f"{source}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, item in enumerate(items, start=1):
        yield number, _object(item, place(source, number))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptFileError(f"{where}: not JSON ({error}); mend that line") from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise PromptFileError(f'{where}: expected an object such as {{"text": "…"}}, not {type(value).__name__}')
    return value


def _delimited_rows(source: Source, delimiter: str) -> Iterator[tuple[int, Row]]:
    """Rows of a CSV file, whose first line names the columns."""
    reader = csv.reader((line for _, line in _lines(source)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        # A quoted text may run over several lines; the row is named by its first.
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PromptFileError(f"{place(source, number)}: broken CSV ({error}); mend that line") from None
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if "" in header or len(set(header)) < len(header):
                raise PromptFileError(
                    f"{place(source, number)}: each column needs a name of its own, "
                    f"but the first line is: {_listed(header)}"
                )
        elif len(cells) != len(header):
            raise PromptFileError(
                f"{place(source, number)}: {len(cells)} cells where the header names {len(header)} columns "
                f"({_listed(header)}); put a text with {delimiter!r} or a line break in it into double quotes"
            )
        else:
            yield number, dict(zip(header, cells, strict=True))


def _parquet_rows(source: Source) -> Iterator[tuple[int, Row]]:
    # Loaded only for a file that needs it: it takes longer than reading most prompt files.
    import pyarrow
    from pyarrow import parquet

    stream: IO[bytes]
    with source.open("rb") as stream:
        number = 0
        try:
            for batch in parquet.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise PromptFileError(
                f"{source}: not a Parquet file that can be read ({first_line(error)}); save it anew, or as JSONL"
            ) from None


def _listed(names: list[str]) -> str:
    return ", ".join(name or "(empty)" for name in names)
