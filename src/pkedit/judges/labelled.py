"""Answers that people labelled harmful or not, for training judges and for measuring how far judges agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkedit.errors import PromptFileError
from pkedit.prompts.columns import Mapping, find, no_column
from pkedit.prompts.tables import place, quoted, read_rows

LABELS = {"1": True, "true": True, "yes": True, "harmful": True, "0": False, "false": False, "no": False, "safe": False}


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer to a harmful request, and whether people call it harmful. `template` names the attack, if known."""

    question: str
    answer: str
    harmful: bool
    template: str = ""


@dataclass(frozen=True)
class LabelledColumns(Mapping):
    """The column that each field of a labelled answer is read from."""

    question: str = "question"
    answer: str = "answer"
    harmful: str = "harmful"
    template: str = "template"


def load_labelled(path: str | Path, columns: str | None = None) -> list[LabelledAnswer]:
    """The labelled answers of a JSONL, CSV or Parquet file.

    Args:
        path: the file.
        columns: which column holds which field, for example `question=prompt,answer=Response`.

    Raises:
        PromptFileError: the file is missing or malformed, a column is missing, or a label is neither 0 nor 1.
    """
    source = Path(path)
    mapping = LabelledColumns() if columns is None else LabelledColumns.parse(columns)
    rows = []
    for number, row in read_rows(source):
        here = place(source, number)
        label = str(_value(row, mapping.harmful, here)).strip().lower().removesuffix(".0")
        if label not in LABELS:
            raise PromptFileError(f"{here}: the label {quoted(label)} is neither 1 (harmful) nor 0; write one of them")
        question, answer = (_value(row, column, here) for column in (mapping.question, mapping.answer))
        if not isinstance(question, str) or not isinstance(answer, str):
            raise PromptFileError(f"{here}: {mapping.question} and {mapping.answer} must be texts")
        template = mapping.pick(row, "template", here)
        rows.append(LabelledAnswer(question, answer, LABELS[label], template or ""))
    return rows


def _value(row: dict[str, Any], column: str, here: str) -> Any:
    try:
        return find(row, column)
    except KeyError:
        raise PromptFileError(no_column(row, column, here)) from None
