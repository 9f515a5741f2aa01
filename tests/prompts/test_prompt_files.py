"""A prompt file is read whole, or refused with a message that names the file and the line."""

import json
from pathlib import Path

import pytest

from pkedit.errors import PromptFileError
from pkedit.prompts import Kind, load_attacks, load_prompts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def test_fields_are_read_and_missing_ones_get_their_defaults(file: Path) -> None:
    full = {"id": "x1", "text": "first?", "category": "theft", "topic": "stealing", "better": "saving"}
    file.write_text(f'{json.dumps(full)}\n\n{{"text": "second?"}}\n', encoding="utf-8")
    first, second = load_prompts(file, Kind.HARMFUL)
    assert (first.id, first.question, first.text, first.kind) == ("x1", "first?", "first?", Kind.HARMFUL)
    assert (first.category, first.topic, first.better) == ("theft", "stealing", "saving")
    assert (second.id, second.category) == ("harmful3", "other")
    assert second.topic
    assert second.better


@pytest.mark.parametrize(
    ("second_line", "complaint"),
    [
        ("{not json", "not JSON"),
        ('"only a string"', "text"),
        ('["a list"]', "text"),
        ('{"question": "no text"}', "text"),
        ('{"text": ""}', "text"),
        ('{"text": "  "}', "text"),
        ('{"text": 5}', "text"),
        ('{"text": null}', "text"),
        ('{"id": "a", "text": "same id again"}', "'a'"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named(file: Path, second_line: str, complaint: str) -> None:
    file.write_text(f'{{"id": "a", "text": "fine"}}\n{second_line}\n', encoding="utf-8")
    with pytest.raises(PromptFileError, match="line 2") as caught:
        load_prompts(file, Kind.HARMLESS)
    assert str(file) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_repeated_id_names_the_line_that_used_it_first(file: Path) -> None:
    file.write_text('{"id": "b", "text": "x"}\n{"id": "a", "text": "y"}\n{"id": "b", "text": "z"}\n')
    with pytest.raises(PromptFileError, match=r"line 3.*line 1"):
        load_prompts(file, Kind.HARMLESS)


def test_a_prompt_may_name_its_split_but_no_other_than_there_is(file: Path) -> None:
    file.write_text('{"text": "one", "split": "edit"}\n{"text": "two"}\n', encoding="utf-8")
    assert [prompt.split for prompt in load_prompts(file, Kind.HARMFUL)] == ["edit", None]
    file.write_text('{"text": "one"}\n{"text": "two", "split": "train"}\n', encoding="utf-8")
    with pytest.raises(PromptFileError, match=r"line 2: unknown split 'train'; choose from edit, select, test"):
        load_prompts(file, Kind.HARMFUL)


@pytest.mark.parametrize("content", ["", "\n", "  \n\n"])
def test_an_empty_file_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(PromptFileError, match="empty") as caught:
        load_prompts(file, Kind.HARMFUL)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(file: Path, tmp_path: Path) -> None:
    for path in (file, tmp_path):
        with pytest.raises(PromptFileError, match="no such file"):
            load_prompts(path, Kind.HARMFUL)


def test_a_file_that_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes('{"text": "café"}'.encode("latin-1"))
    with pytest.raises(PromptFileError, match="UTF-8") as caught:
        load_prompts(file, Kind.HARMFUL)
    assert str(file) in str(caught.value)


def test_unusual_line_separators_inside_a_text_do_not_split_the_line(file: Path) -> None:
    text = "one\u2028two\u2029three\x85four"
    file.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\r\n", encoding="utf-8", newline="")
    (prompt,) = load_prompts(file, Kind.HARMFUL)
    assert prompt.text == text


def test_attacks_are_read_with_defaults(file: Path) -> None:
    file.write_text('{"id": "x", "family": "role", "text": "A {question}"}\n{"text": "B {question_upper}"}\n')
    first, second = load_attacks(file)
    assert (first.id, first.family, first.fill("q")) == ("x", "role", "A q")
    assert (second.id, second.family, second.fill("q")) == ("attack2", "other", "B Q")


@pytest.mark.parametrize("text", ["no place for it", "a misspelt {question_leat}", "{questions}"])
def test_an_attack_without_a_place_for_the_question_is_refused(file: Path, text: str) -> None:
    file.write_text(f'{{"text": "{{question}}"}}\n{{"text": "{text}"}}\n')
    with pytest.raises(PromptFileError, match=r"line 2.*question"):
        load_attacks(file)
