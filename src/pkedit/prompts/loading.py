"""Reads prompt sets: the built-in ones, and JSONL files of the same shape."""

import json
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pkedit.errors import PromptFileError
from pkedit.prompts.types import SPLITS, Attack, Kind, Prompt

OPTIONAL = ("category", "topic", "better", "split")


def load_prompts(path: str | Path, kind: Kind) -> list[Prompt]:
    """Prompts of a JSONL file: one object a line with `text`, and optionally `id`, `category`, `topic`, `better`.

    A `split` (`edit`, `select` or `test`) keeps a prompt out of the other splits.

    Raises:
        PromptFileError: the file is missing, empty or malformed; the message names file and line.
    """
    return _prompts(Path(path), kind)


def load_attacks(path: str | Path) -> list[Attack]:
    """Attack templates of a JSONL file: `text` with `{question}` in it, optionally `id` and `family`.

    Raises:
        PromptFileError: as `load_prompts`; also when a template has no place for the question.
    """
    return _attacks(Path(path))


def builtin_prompts(kind: Kind) -> list[Prompt]:
    """The set of this kind that was written for pkedit."""
    return _prompts(_data(f"{kind.value}.jsonl"), kind)


def builtin_attacks() -> list[Attack]:
    """The attack templates that were written for pkedit."""
    return _attacks(_data("attacks.jsonl"))


def builtin_refusals() -> list[str]:
    """Refusal phrasings with `{topic}` and `{better}`."""
    return [row["text"] for _, row in _rows(_data("refusals.jsonl"))]


def _data(name: str) -> Traversable:
    return files("pkedit.prompts") / "data" / name


def _prompts(source: Path | Traversable, kind: Kind) -> list[Prompt]:
    prompts = []
    for number, row in _rows(source):
        optional = {field: row[field] for field in OPTIONAL if _is_text(row.get(field))}
        if row.get("split") not in (None, *SPLITS):
            raise PromptFileError(
                f"{source}, line {number}: unknown split {row['split']!r}; choose from {', '.join(SPLITS)}"
            )
        prompts.append(
            Prompt(
                id=str(row.get("id", f"{kind.value}{number}")),
                question=row["text"],
                text=row["text"],
                kind=kind,
                **optional,
            )
        )
    return prompts


def _attacks(source: Path | Traversable) -> list[Attack]:
    attacks = []
    for number, row in _rows(source):
        attack = Attack(str(row.get("id", f"attack{number}")), str(row.get("family", "other")), row["text"])
        filled = attack.fill("x")
        # A misspelt placeholder is left standing, and the question would be missing.
        if filled == attack.text or "{question" in filled:
            raise PromptFileError(
                f"{source}, line {number}: the template has no {{question}}, so no question can be put in it"
            )
        attacks.append(attack)
    return attacks


def _rows(source: Path | Traversable) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and objects of a JSONL file, each with a non-empty `text` and an id seen once."""
    if not source.is_file():
        raise PromptFileError(f"{source}: no such file; give a JSONL file with one object a line")
    try:
        # Not splitlines(): U+2028 and the like may stand unescaped inside a JSON string.
        lines = source.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise PromptFileError(f"{source}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or not _is_text(row.get("text")):
            raise PromptFileError(f'{source}, line {number}: expected an object with a non-empty "text"')
        identifier = str(row.get("id", number))
        if identifier in seen:
            raise PromptFileError(
                f"{source}, line {number}: id {identifier!r} was already used in line {seen[identifier]}"
            )
        seen[identifier] = number
        yield number, row
    if not seen:
        raise PromptFileError(f"{source}: the file is empty; give at least one line")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
