"""Reads rows from JSONL, JSON, CSV, TSV and Parquet files, one at a time, with the place of each for messages."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

from pkedit.errors import PromptFileError
from pkedit.prompts.parquet import parquet_rows

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
HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Limits, so that a file made to exhaust memory is refused: a prompt takes kilobytes, so many rows minutes.
LONGEST_LINE = 8 << 20
LARGEST_ARRAY = 64 << 20
MOST_ROWS = 5_000_000
SHOWN_NAMES, LONGEST_NAME = 12, 60


def read_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """The number and the columns of each row, from 1, in the order of the file.

    The number is that of the line in which a row begins (JSONL, CSV, TSV; the header of a CSV file is line 1), else
    that of the row. The suffix says the format. Everything but JSON arrays is read piece by piece.

    Raises:
        PromptFileError: the file is missing, empty, of another kind, not UTF-8 or malformed; the message names file
            and line.
    """
    if not is_there(source):
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
        if number > MOST_ROWS:
            raise PromptFileError(f"{source}: more than {MOST_ROWS:,} {UNITS[suffix]}s; split the file")
        yield number, row
    if not found:
        raise PromptFileError(f"{source}: the file is empty; give at least one {UNITS[suffix]} of data")


def is_there(source: Source) -> bool:
    """Whether it is a file; a name that the system does not take is none."""
    try:
        return source.is_file()
    except (OSError, ValueError):
        return False


def _opened(source: Source) -> IO[bytes]:
    try:
        stream: IO[bytes] = source.open("rb")
    except OSError as error:
        raise PromptFileError(f"{source}: cannot be read ({error.strerror}); make it readable") from None
    return stream


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
    stream: IO[bytes]
    with _opened(source) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b""), start=1):
            if len(raw) > LONGEST_LINE:
                raise PromptFileError(
                    f"{source}, line {number}: longer than {LONGEST_LINE >> 20} MiB, which no prompt is; is it a file "
                    "of another kind?"
                )
            try:
                # Spreadsheets write a byte order mark in front of the first line.
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise PromptFileError(
                    f"{source}, line {number}: not UTF-8 text ({error.reason} at byte {error.start} of the line); "
                    "save the file as UTF-8"
                ) from None


def _json_lines(source: Source) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(source):
        if line.strip():
            yield number, _object(_parsed(line, place(source, number)), place(source, number))


def _json_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """Items of one array. Some call a file of JSON lines .json too: without a bracket in front it is read as that."""
    lines, characters = [], 0
    for _, line in _lines(source):
        lines.append(line)
        characters += len(line)
        if characters > LARGEST_ARRAY:
            raise PromptFileError(
                f"{source}: larger than {LARGEST_ARRAY >> 20} MiB, too much for one array; save it as JSONL"
            )
    text = "".join(lines)
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
        value = json.loads(text)
        if HALF_A_PAIR.search(text):
            # Valid in JSON, but no text: it could be neither tokenised nor written to a file.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{where}: not JSON ({error}); mend that line") from None
    return value


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
                    f"but the first line is: {named(header)}"
                )
        elif len(cells) != len(header):
            raise PromptFileError(
                f"{place(source, number)}: {len(cells)} cells where the header names {len(header)} columns "
                f"({named(header)}); put a text with {delimiter!r} or a line break in it into double quotes"
            )
        else:
            yield number, dict(zip(header, cells, strict=True))


def _parquet_rows(source: Source) -> Iterator[tuple[int, Row]]:
    with _opened(source) as stream:
        yield from enumerate(parquet_rows(str(source), stream, most=MOST_ROWS), start=1)


def named(names: Iterable[Any]) -> str:
    """Names from a file in a message of one line: the first ones, none too long, and none that steers a terminal."""
    shown = [_printable(str(name)) for name in names]
    more = f" and {len(shown) - SHOWN_NAMES} more" if len(shown) > SHOWN_NAMES else ""
    return f"{', '.join(shown[:SHOWN_NAMES])}{more}"


def quoted(value: Any) -> str:
    """A value from a file in a message: in quotes, and not longer than a line."""
    text = repr(value)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def _printable(name: str) -> str:
    """A name as it is if it can be printed in one line, else as Python writes it."""
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return (name if name.isprintable() else repr(name)) or "(empty)"
