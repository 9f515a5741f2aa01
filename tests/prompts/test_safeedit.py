"""A SafeEdit file gives its cases with every field in its place, in each spelling, and nothing missing passes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkedit.errors import PromptFileError
from pkedit.prompts import Kind, load_prompts_from, load_safeedit, load_safeedit_prompts

SAMPLE = Path(__file__).parents[1] / "data" / "safeedit_sample.json"
TESTS = "generalization test"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def to_file(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "safeedit.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return content


def test_the_sample_has_cases_of_all_nine_categories() -> None:
    cases = load_safeedit(SAMPLE)
    assert len({case.category for case in cases}) == 9
    assert len({case.id for case in cases}) == len(cases) >= 8


def test_each_test_of_a_case_varies_what_its_name_says() -> None:
    for case in load_safeedit(SAMPLE):
        assert case.question in case.adversarial_prompt
        assert case.only_question == case.question
        assert case.question in case.other_attack
        assert case.other_attack != case.adversarial_prompt
        opening = case.adversarial_prompt.split(case.question)[0]
        assert case.other_question.startswith(opening)
        assert case.question not in case.other_question
        assert case.question not in case.other_question_and_attack
        assert not case.other_question_and_attack.startswith(opening)


def test_every_field_lands_in_its_place(rows: list[dict[str, Any]]) -> None:
    case, row = load_safeedit(SAMPLE)[3], rows[3]
    assert (case.id, case.category, case.attack) == ("3", row["unsafety category"], row["attack name"])
    assert (case.safe_generation, case.unsafe_generation) == (row["safe generation"], row["unsafe generation"])
    assert case.other_attack == row[TESTS]["test input of other attack prompt input"]
    assert case.other_question == row[TESTS]["test input of other question input"]
    assert case.other_question_and_attack == row[TESTS]["test input of other questions and attack prompts"]
    assert case.knowledge_prompt == row["knowledge constrain"]["prompt"]
    assert case.knowledge_answer == row["knowledge constrain"]["answer"]


def test_json_lines_hold_the_same_cases(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "safeedit.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert load_safeedit(path) == load_safeedit(SAMPLE)


def test_the_spellings_in_circulation_are_understood(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]]
) -> None:
    row = rows[0]
    tests, knowledge = row[TESTS], row["knowledge constrain"]
    spelt = {
        "Id": row["id"],
        "unsafety_category": row["unsafety category"],
        "Question": row["question"],
        "adversarial_prompt": row["adversarial prompt"],
        "attack_name": row["attack name"],
        "unsafe_generation": row["unsafe generation"],
        "safe_generation": row["safe generation"],
        "generalization_test": {
            "test input of only harmful questions": tests["test input of only harmful question"],
            "test input of other attack prompts": tests["test input of other attack prompt input"],
            "test input of other questions": tests["test input of other question input"],
            "test_input_of_other_questions_and_attack_prompts": tests[
                "test input of other questions and attack prompts"
            ],
        },
        "general knowledge constraint": {"prompt": knowledge["prompt"], "ground_truth": knowledge["answer"]},
    }
    assert load_safeedit(write([spelt])) == load_safeedit(SAMPLE)[:1]


@pytest.mark.parametrize(
    "missing",
    ["unsafety category", "question", "adversarial prompt", "unsafe generation", "safe generation"],
)
def test_a_case_without_a_field_is_refused(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]], missing: str
) -> None:
    for change in ("left out", "empty"):
        row = {name: value for name, value in rows[1].items() if name != missing or change == "empty"}
        path = write([rows[0], row | ({missing: " "} if change == "empty" else {})])
        with pytest.raises(PromptFileError, match=rf"item 2: no text for '{missing}'; there are: id, ") as caught:
            load_safeedit(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("group", [TESTS, "knowledge constrain"])
def test_a_case_without_its_tests_or_its_constraint_is_refused(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]], group: str
) -> None:
    path = write([{name: value for name, value in rows[0].items() if name != group}])
    with pytest.raises(PromptFileError, match=f"item 1: no '{group}'; there are: id, unsafety category"):
        load_safeedit(path)
    for inside in rows[0][group]:
        if inside not in ("attack_category", "attack_name"):
            row = rows[0] | {group: {name: value for name, value in rows[0][group].items() if name != inside}}
            with pytest.raises(PromptFileError, match=f"item 1: no text for .* in '{group}'; there are: "):
                load_safeedit(write([row]))


def test_an_id_is_never_shared_and_may_be_missing(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]]
) -> None:
    unnamed = {name: value for name, value in rows[2].items() if name not in ("id", "attack name")}
    cases = load_safeedit(write([rows[0], rows[1] | {"id": 0}, unnamed]))
    assert [case.id for case in cases] == ["0", "0#2", "3"]
    assert cases[2].attack == "other"


def test_its_questions_are_a_harmful_suite_each_once(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]]
) -> None:
    path = write([*rows, rows[0] | {"id": 99}])
    prompts = load_safeedit_prompts(path)
    assert [prompt.question for prompt in prompts] == [row["question"] for row in rows]
    assert [prompt.category for prompt in prompts] == [row["unsafety category"] for row in rows]
    assert all(prompt.kind is Kind.HARMFUL and prompt.text == prompt.question for prompt in prompts)
    assert load_prompts_from(path, Kind.HARMFUL) == prompts


def test_a_training_file_without_tests_serves_as_a_suite(
    write: Callable[[list[dict[str, Any]]], Path], rows: list[dict[str, Any]]
) -> None:
    path = write([{name: value for name, value in row.items() if name != TESTS} for row in rows])
    assert len(load_safeedit_prompts(path)) == len(rows)


def test_what_is_no_suite_of_safeedit_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "x", "question": "y"}\n')
    assert [prompt.text for prompt in load_prompts_from(path, Kind.HARMFUL)] == ["x"]
    with pytest.raises(PromptFileError, match="no column 'text'"):
        load_prompts_from(SAMPLE, Kind.HARMLESS)
