"""Which column of a file holds which field: of a prompt, an attack template, or a labelled answer."""

from dataclasses import dataclass, fields
from typing import Any, Self

from pkedit.errors import PromptFileError
from pkedit.prompts.tables import named


@dataclass(frozen=True)
class Mapping:
    """The column that each field is read from; by default the one of the same name.

    A column inside another is named with dots, a place in a list by its index: `turns.0`. A column that was named
    other than the field must be in every row.
    """

    @classmethod
    def parse(cls, text: str) -> Self:
        """The mapping that is written as `text=goal,category=SemanticCategory`.

        Raises:
            PromptFileError: a part is not FIELD=COLUMN, names no such field, or names a field twice.
        """
        known = [field.name for field in fields(cls)]
        chosen: dict[str, str] = {}
        for part in text.split(","):
            field, equals, column = (piece.strip() for piece in part.partition("="))
            if not (field and equals and column):
                raise PromptFileError(f"columns {text!r}: expected FIELD=COLUMN,…, for example text=goal; got {part!r}")
            if field not in known:
                raise PromptFileError(f"columns {text!r}: no field {field!r}; choose from {', '.join(known)}")
            if field in chosen:
                raise PromptFileError(f"columns {text!r}: {field} is given twice; name one column")
            chosen[field] = column
        return cls(**chosen)

    def pick(self, row: dict[str, Any], field: str, here: str) -> str | None:
        """The field's text in this row, numbers as text too; None if there is none.

        Raises:
            PromptFileError: the column was named by the user and the row has no such column; the message begins with
                `here`, the row's place, and names the columns that are there.
        """
        column = getattr(self, field)
        try:
            value = find(row, column)
        except KeyError:
            if column == field:
                return None
            raise PromptFileError(no_column(row, column, here)) from None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return value if isinstance(value, str) and value.strip() else None


@dataclass(frozen=True)
class Columns(Mapping):
    """The columns of prompts and attack templates. Of the default ones only `text` must be there."""

    text: str = "text"
    id: str = "id"
    category: str = "category"
    topic: str = "topic"
    better: str = "better"
    split: str = "split"
    family: str = "family"


def find(row: dict[str, Any], column: str) -> Any:
    """The value of a column, whose name may lead inside: `turns.0`, `generalization test.attack name`.

    Raises:
        KeyError: there is no such column.
    """
    if column in row:
        return row[column]
    value: Any = row
    for step in column.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif (
            isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(value)
        ):
            value = value[int(step)]
        else:
            raise KeyError(column)
    return value


def no_column(row: dict[str, Any], column: str, here: str) -> str:
    """The message about a column that is not there, with those that are."""
    return f"{here}: no column {column!r}; there are: {named(row) or 'none'}"
