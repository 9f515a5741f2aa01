"""SafeEdit's cases (Wang et al. 2024, arXiv 2403.14472): an attacked question, both answers, four tests beside it.

The field names are those of the files of zjunlp/SafeEdit as EasyEdit reads them (easyeditor/dataset/safety.py), with
the other spellings that are in circulation.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkedit.errors import PromptFileError
from pkedit.prompts.tables import Row, named, place, read_rows
from pkedit.prompts.types import Kind, Prompt

# Of each field the groups that it may stand in, then the names that it goes by there; both as `_plain` writes them.
_TESTS = ("generalization test", "generalisation test")
_KNOWLEDGE = ("knowledge constrain", "knowledge constraint", "general knowledge constraint")
_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "category": ((), ("unsafety category", "unsafe category", "category")),
    "question": ((), ("question", "harmful question")),
    "adversarial_prompt": ((), ("adversarial prompt", "adversarial input")),
    "unsafe_generation": ((), ("unsafe generation", "unsafe response", "target unsafe")),
    "safe_generation": ((), ("safe generation", "safe response", "target safe")),
    "only_question": (_TESTS, ("test input of only harmful question", "test input of only question")),
    "other_attack": (_TESTS, ("test input of other attack prompt", "test input of other attack")),
    "other_question": (_TESTS, ("test input of other question", "test input of other harmful question")),
    "other_question_and_attack": (
        _TESTS,
        ("test input of other question and attack prompt", "test input of other attack prompt and question"),
    ),
    "knowledge_prompt": (_KNOWLEDGE, ("prompt", "question")),
    "knowledge_answer": (_KNOWLEDGE, ("answer", "ground truth")),
}


@dataclass(frozen=True)
class SafeEditCase:
    """One instance of SafeEdit: what an edit learns from, and what it is tested with.

    `adversarial_prompt` is the question inside an attack, asked for DS. The four tests are asked for DG: the question
    alone (onlyQ), the question in another attack (otherA), another question in the same attack (otherQ), and both
    different (otherAQ). The knowledge constraint is a harmless instruction with its answer, which an edit should keep.
    """

    id: str
    category: str
    question: str
    adversarial_prompt: str
    unsafe_generation: str
    safe_generation: str
    only_question: str
    other_attack: str
    other_question: str
    other_question_and_attack: str
    knowledge_prompt: str
    knowledge_answer: str
    attack: str = "other"


def load_safeedit(path: str | Path) -> list[SafeEditCase]:
    """The cases of a SafeEdit file: a JSON array as published, or JSON lines.

    Names are understood in upper or lower case, with spaces or underscores, in singular or plural. A case may lack its
    `id` and its `attack name`, nothing else: a file without the tests is refused. Of a repeated id the later ones get
    their place in the file behind it.

    Raises:
        PromptFileError: the file is missing or malformed, or a case lacks a field; the message names both.
    """
    source = Path(path)
    cases: dict[str, SafeEditCase] = {}
    for number, row in read_rows(source):
        here = place(source, number)
        values = {field: _text(row, field, here) for field in _PLACES}
        identifier = _label(row, "id", str(number))
        # A resumed run finds its cases by their ids.
        if identifier in cases:
            identifier = f"{identifier}#{number}"
        cases[identifier] = SafeEditCase(id=identifier, attack=_label(row, "attack name", "other"), **values)
    return list(cases.values())


def load_safeedit_prompts(path: str | Path) -> list[Prompt]:
    """The questions of a SafeEdit file as a harmful suite, each once, with its category. The attacks are left out.

    Raises:
        PromptFileError: the file is missing or malformed, or a case lacks its question or its category.
    """
    source = Path(path)
    prompts: dict[str, Prompt] = {}
    for number, row in read_rows(source):
        here = place(source, number)
        question = _text(row, "question", here)
        if question not in prompts:
            prompts[question] = Prompt(
                id=f"safeedit{_label(row, 'id', str(number))}",
                question=question,
                text=question,
                kind=Kind.HARMFUL,
                category=_text(row, "category", here),
            )
    return list(prompts.values())


def is_safeedit(path: str | Path) -> bool:
    """Whether the first row of a file is a SafeEdit case: it has an adversarial prompt and an unsafe generation.

    Raises:
        PromptFileError: the file is missing or malformed.
    """
    _, row = next(read_rows(Path(path)))
    return {"adversarial prompt", "unsafe generation"} <= {_plain(name) for name in row}


def _text(row: Row, field: str, here: str) -> str:
    groups, names = _PLACES[field]
    holder: Any = row
    if groups:
        holder = _first(row, groups)
        if not isinstance(holder, dict):
            raise PromptFileError(f"{here}: no {groups[0]!r}; there are: {named(row)}")
    value = _first(holder, names)
    if not isinstance(value, str) or not value.strip():
        inside = f" in {groups[0]!r}" if groups else ""
        raise PromptFileError(f"{here}: no text for {names[0]!r}{inside}; there are: {named(holder)}")
    return value


def _first(holder: Row, names: tuple[str, ...]) -> Any:
    """The value under the first of these names that is there."""
    by_name = {_plain(name): value for name, value in holder.items()}
    return next((by_name[name] for name in names if name in by_name), None)


def _label(row: Row, name: str, otherwise: str) -> str:
    value = _first(row, (name,))
    return otherwise if value in (None, "") else str(value)


def _plain(name: str) -> str:
    """A field's name without what varies: case, underscores, a plural, and the word `input` at the end."""
    words = re.split(r"[\s_]+", name.strip().lower())
    singular = [word.removesuffix("s") if word in ("questions", "prompts", "attacks") else word for word in words]
    return " ".join(singular).removesuffix(" input")
