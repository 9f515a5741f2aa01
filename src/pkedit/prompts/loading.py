"""Prompts and attack templates: the built-in sets, and those of files in any format that `tables` reads."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pkedit.errors import PromptFileError
from pkedit.prompts.columns import Columns, find, no_column
from pkedit.prompts.placeholders import with_our_placeholder
from pkedit.prompts.tables import UNITS, Row, Source, place, quoted, read_rows, suffix_of
from pkedit.prompts.types import NO_FAMILY, SPLITS, Attack, Kind, Prompt, Turn

OPTIONAL = ("category", "topic", "better", "split")


def load_prompts(
    path: str | Path, kind: Kind, columns: Columns | None = None, *, where: Mapping[str, str] | None = None
) -> list[Prompt]:
    """Prompts of a JSONL, JSON, CSV, TSV or Parquet file, each row with a `text`, and optionally the other fields.

    Those are `id`, `category`, `topic`, `better`, and a `split` (`edit`, `select` or `test`), which keeps a prompt out
    of the other splits. `columns` says which column is which field, where the file names them otherwise. Of the rows
    only those are taken whose columns have the values in `where`.

    Raises:
        PromptFileError: the file is missing, empty or malformed, or has not these columns; the message names file
            and line.
    """
    return _prompts(Path(path), kind, columns or Columns(), where or {})


def load_attacks(
    path: str | Path, columns: Columns | None = None, *, where: Mapping[str, str] | None = None
) -> list[Attack]:
    """Attack templates of a file: `text` with `{question}` in it, optionally `id` and `family`.

    The well-known placeholders of others, `[INSERT PROMPT HERE]` and the like, are understood too.

    Raises:
        PromptFileError: as `load_prompts`; also when a template has no place for the question.
    """
    return _attacks(Path(path), columns or Columns(), where or {})


def builtin_prompts(kind: Kind) -> list[Prompt]:
    """The set of this kind that was written for pkedit."""
    return list(_builtin_prompts(kind))


def builtin_attacks() -> list[Attack]:
    """The attack templates that were written for pkedit."""
    return list(_builtin_attacks())


def builtin_refusals() -> list[str]:
    """Refusal phrasings with `{topic}` and `{better}`."""
    return [text for _, _, text in _rows(_data("refusals.jsonl"), Columns(), {})]


def builtin_turns() -> list[Turn]:
    """Everyday messages with their answers, to stand before other prompts."""
    return [(row["user"], row["assistant"]) for _, row in read_rows(_data("turns.jsonl"))]


def builtin_preambles() -> list[str]:
    """What people tell before they come to their request, in their own words."""
    return [text for _, _, text in _rows(_data("preambles.jsonl"), Columns(), {})]


@cache
def _builtin_prompts(kind: Kind) -> tuple[Prompt, ...]:
    """The package's own files do not change: they are read once in a process."""
    return tuple(_prompts(_data(f"{kind.value}.jsonl"), kind, Columns(), {}))


@cache
def _builtin_attacks() -> tuple[Attack, ...]:
    return tuple(_attacks(_data("attacks.jsonl"), Columns(), {}))


def _data(name: str) -> Traversable:
    return files("pkedit.prompts") / "data" / name


def _prompts(source: Source, kind: Kind, columns: Columns, where: Mapping[str, str]) -> list[Prompt]:
    prompts = []
    for number, row, text in _rows(source, columns, where):
        here = place(source, number)
        picked: dict[str, Any] = {field: columns.pick(row, field, here) for field in OPTIONAL}
        # A split that is there but is no text would otherwise pass for none at all.
        split = picked["split"] or row.get(columns.split)
        if split not in (None, "", *SPLITS):
            raise PromptFileError(f"{here}: unknown split {quoted(split)}; choose from {', '.join(SPLITS)}")
        prompts.append(
            Prompt(
                id=columns.pick(row, "id", here) or f"{kind.value}{number}",
                question=text,
                text=text,
                kind=kind,
                **{field: value for field, value in picked.items() if value is not None},
            )
        )
    return prompts


def _attacks(source: Source, columns: Columns, where: Mapping[str, str]) -> list[Attack]:
    attacks = []
    for number, row, text in _rows(source, columns, where):
        here = place(source, number)
        attack = Attack(
            columns.pick(row, "id", here) or f"attack{number}",
            columns.pick(row, "family", here) or NO_FAMILY,
            with_our_placeholder(text),
        )
        filled = attack.fill("x")
        # A misspelt placeholder is left standing, and the question would be missing.
        if filled == attack.text or "{question" in filled:
            raise PromptFileError(
                f"{here}: the template has no {{question}}, so no question can be put in it; write {{question}} "
                "where it belongs"
            )
        attacks.append(attack)
    return attacks


def _rows(source: Source, columns: Columns, where: Mapping[str, str]) -> Iterator[tuple[int, Row, str]]:
    """Number, row and text of the rows to take, each with a non-empty text and an id seen once."""
    seen: dict[str, int] = {}
    taken = 0
    for number, row in read_rows(source):
        here = place(source, number)
        if not _matches(row, where, here):
            continue
        try:
            value = find(row, columns.text)
        except KeyError:
            raise PromptFileError(no_column(row, columns.text, here)) from None
        if not isinstance(value, str) or not value.strip():
            raise PromptFileError(f'{here}: expected an object with a non-empty "{columns.text}"')
        identifier = columns.pick(row, "id", here)
        if identifier in seen:
            first = f"{UNITS[suffix_of(source)]} {seen[identifier]}"
            raise PromptFileError(f"{here}: id {quoted(identifier)} was already used in {first}; give each its own")
        if identifier is not None:
            seen[identifier] = number
        taken += 1
        yield number, row, value
    if not taken:
        wanted = ", ".join(f"{column} = {value!r}" for column, value in where.items())
        raise PromptFileError(f"{source}: no row with {wanted}; check the file and its columns")


def _matches(row: Row, where: Mapping[str, str], here: str) -> bool:
    for column, wanted in where.items():
        try:
            value = find(row, column)
        except KeyError:
            raise PromptFileError(no_column(row, column, here)) from None
        if ("" if value is None else str(value).strip()) != wanted:
            return False
    return True
