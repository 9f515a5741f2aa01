"""A file that names its columns in its own way is read as the user says, and a wrong name is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pkedit.errors import PromptFileError
from pkedit.prompts import Columns, Kind, load_attacks, load_prompts

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def harmbench(tmp_path: Path) -> Path:
    path = tmp_path / "behaviours.csv"
    path.write_text("Behavior,SemanticCategory,BehaviorID,Number\nDo it,theft,do_it,7\nDo that,,do_that,8\n")
    return path


def test_a_mapping_is_parsed_from_its_text() -> None:
    columns = Columns.parse("text=goal, category=SemanticCategory,id=Behavior ID")
    assert columns == Columns(text="goal", category="SemanticCategory", id="Behavior ID")
    assert columns.topic == "topic"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("text=goal,kategory=x", "no field 'kategory'; choose from text, id, category"),
        ("text", "expected FIELD=COLUMN"),
        ("text=", "expected FIELD=COLUMN"),
        ("=goal", "expected FIELD=COLUMN"),
        ("", "expected FIELD=COLUMN"),
        ("text=goal,", "expected FIELD=COLUMN"),
        ("text=a,text=b", "text is given twice"),
    ],
)
def test_a_mapping_that_cannot_be_understood_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(PromptFileError, match=complaint):
        Columns.parse(text)


def test_mapped_columns_become_the_fields_of_the_prompts(harmbench: Path) -> None:
    first, second = load_prompts(
        harmbench, Kind.HARMFUL, Columns.parse("text=Behavior,category=SemanticCategory,id=BehaviorID")
    )
    assert (first.id, first.text, first.question, first.category) == ("do_it", "Do it", "Do it", "theft")
    assert (second.id, second.category) == ("do_that", "other")


def test_a_number_may_be_an_id_or_a_category(harmbench: Path, tmp_path: Path) -> None:
    prompts = load_prompts(harmbench, Kind.HARMFUL, Columns(text="Behavior", id="Number", category="Number"))
    assert [(prompt.id, prompt.category) for prompt in prompts] == [("7", "7"), ("8", "8")]
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"text": "x", "id": 0, "category": 3}\n')
    (prompt,) = load_prompts(path, Kind.HARMFUL)
    assert (prompt.id, prompt.category) == ("0", "3")


def test_a_column_inside_another_is_named_with_dots(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    path.write_text(json.dumps({"turns": ["first", "second"], "about": {"kind": "writing"}, "a.b": "whole"}) + "\n")
    (prompt,) = load_prompts(path, Kind.HARMLESS, Columns(text="turns.0", category="about.kind", topic="a.b"))
    assert (prompt.text, prompt.category, prompt.topic) == ("first", "writing", "whole")
    with pytest.raises(PromptFileError, match=r"line 1: no column 'turns.2'"):
        load_prompts(path, Kind.HARMLESS, Columns(text="turns.2"))


@pytest.mark.parametrize("mapping", ["text=Goal", "text=Behavior,category=Category", "text=Behavior,id=ID"])
def test_a_missing_column_is_refused_with_those_that_are_there(harmbench: Path, mapping: str) -> None:
    with pytest.raises(PromptFileError, match="there are: Behavior, SemanticCategory, BehaviorID, Number") as caught:
        load_prompts(harmbench, Kind.HARMFUL, Columns.parse(mapping))
    assert f"{harmbench}, line 2: no column" in str(caught.value)


def test_without_a_mapping_a_file_must_have_a_text(harmbench: Path) -> None:
    with pytest.raises(PromptFileError, match=r"no column 'text'; there are: Behavior"):
        load_prompts(harmbench, Kind.HARMFUL)


def test_an_id_that_comes_twice_is_refused_in_every_format(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("text,id\nx,a\ny,a\n")
    with pytest.raises(PromptFileError, match=r"line 3: id 'a' was already used in line 2"):
        load_prompts(path, Kind.HARMFUL)


def test_only_the_rows_that_are_wanted_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("text,label\nx,safe\ny,unsafe\nz,safe\n")
    assert [p.text for p in load_prompts(path, Kind.BORDERLINE, where={"label": "safe"})] == ["x", "z"]
    with pytest.raises(PromptFileError, match="no row with label = 'harmless'"):
        load_prompts(path, Kind.BORDERLINE, where={"label": "harmless"})
    with pytest.raises(PromptFileError, match="no column 'lable'; there are: text, label"):
        load_prompts(path, Kind.BORDERLINE, where={"lable": "safe"})


@pytest.mark.parametrize(
    "text",
    [
        "Before [INSERT PROMPT HERE] after",
        "Before [insert question here] after",
        "Before {{prompt}} after",
        "Before {{ prompt }} after",
        "Before {{question}} after",
        "Before {goal} after",
        "Before {prompt} after",
        "Before {query} after",
        "Before {behavior} after",
        "Before {instruction} after",
        "Before {forbidden_prompt} after",
        "Before [PROMPT] after",
        "Before [GOAL] after",
    ],
)
def test_the_placeholders_of_others_become_ours(tmp_path: Path, text: str) -> None:
    path = tmp_path / "attacks.jsonl"
    path.write_text(json.dumps({"template": text}) + "\n")
    (attack,) = load_attacks(path, Columns(text="template"))
    assert attack.text == "Before {question} after"
    assert attack.fill("Why?") == "Before Why? after"


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("[INSERT PROMPT HERE] twice: [INSERT PROMPT HERE]", "{question} twice: {question}"),
        ("Answer as [PROMPT]: [INSERT PROMPT HERE]", "Answer as [PROMPT]: {question}"),
        ("{question_upper}, called {prompt}", "{question_upper}, called {prompt}"),
    ],
)
def test_only_one_kind_of_placeholder_is_taken_for_the_question(tmp_path: Path, text: str, ours: str) -> None:
    path = tmp_path / "attacks.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    assert load_attacks(path)[0].text == ours


def test_attack_templates_come_from_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "attacks.csv"
    path.write_text('id,text,kind\n0,"Line one\nAnd then: [INSERT PROMPT HERE]",story\n')
    (attack,) = load_attacks(path, Columns(family="kind"))
    assert (attack.id, attack.family, attack.fill("q")) == ("0", "story", "Line one\nAnd then: q")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public evaluation data is not here")
def test_the_public_sets_are_read_whole() -> None:
    advbench = load_prompts(SHARED / "advbench_harmful_behaviors.jsonl", Kind.HARMFUL, Columns.parse("text=goal"))
    assert len(advbench) == 520
    columns = Columns.parse("text=Behavior,category=SemanticCategory,id=BehaviorID")
    harmbench = load_prompts(SHARED / "harmbench_behaviors.jsonl", Kind.HARMFUL, columns)
    assert len(harmbench) == len({prompt.id for prompt in harmbench}) == 400
    assert len(Counter(prompt.category for prompt in harmbench)) > 5
    standard = {"FunctionalCategory": "standard"}
    assert len(load_prompts(SHARED / "harmbench_behaviors.jsonl", Kind.HARMFUL, columns, where=standard)) == 200
    templates = load_attacks(SHARED / "gptfuzz_templates_a.jsonl")
    assert len(templates) == 40
    assert all("xyz?" in template.fill("xyz?") for template in templates)
    assert len(load_prompts(SHARED / "mt_bench.jsonl", Kind.HARMLESS, Columns.parse("text=turns.0"))) == 80
