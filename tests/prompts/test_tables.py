"""Every format gives the same rows, and a file that is none of it is refused in one line that says where and why."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from pkedit.errors import PromptFileError
from pkedit.prompts.tables import read_rows

ROWS = [{"text": "one, with a comma", "category": "a"}, {"text": 'two\nlines and a "quote"', "category": "b"}]


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same rows in every format."""
    contents = {
        "rows.jsonl": "\n".join(json.dumps(row) for row in ROWS),
        "rows.json": json.dumps(ROWS, indent=2),
        "rows.csv": 'text,category\n"one, with a comma",a\n"two\nlines and a ""quote""",b\n',
        "rows.tsv": 'text\tcategory\none, with a comma\ta\n"two\nlines and a ""quote"""\tb\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    write_table(tmp_path / "rows.parquet", [dict(row) for row in ROWS])
    return {path.suffix: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(files: dict[str, Path], suffix: str) -> None:
    assert [row for _, row in read_rows(files[suffix])] == ROWS


@pytest.mark.parametrize(
    ("suffix", "numbers"),
    [(".jsonl", [1, 2]), (".json", [1, 2]), (".csv", [2, 3]), (".tsv", [2, 3]), (".parquet", [1, 2])],
)
def test_a_row_is_numbered_by_the_line_it_begins_in(files: dict[str, Path], suffix: str, numbers: list[int]) -> None:
    assert [number for number, _ in read_rows(files[suffix])] == numbers


def test_a_row_behind_a_text_of_several_lines_keeps_its_own_line_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text\n"a\nb\nc"\n\nlast\n')
    assert [(number, row["text"]) for number, row in read_rows(path)] == [(2, "a\nb\nc"), (6, "last")]


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "ROWS.CSV"
    path.write_text("text\nx\n")
    assert [row for _, row in read_rows(path)] == [{"text": "x"}]


def test_rows_are_given_out_before_the_rest_of_the_file_is_read(tmp_path: Path) -> None:
    for name, content in (("rows.jsonl", '{"text": "x"}\nbroken\n'), ("rows.csv", "text\nx\ntoo,many\n")):
        path = tmp_path / name
        path.write_text(content)
        assert next(read_rows(path))[1] == {"text": "x"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("text\nx\n" if name.endswith("csv") else '{"text": "x"}\n', encoding="utf-8-sig")
    assert [row for _, row in read_rows(path)] == [{"text": "x"}]


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"text": "x"}\n\n{"text": "y"}\n')
    assert [row["text"] for _, row in read_rows(path)] == ["x", "y"]


def test_lists_and_structures_of_a_parquet_file_stay_what_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"turns": ["first", "second"], "inside": {"a": "b"}}]
    assert [row for _, row in read_rows(write_table(tmp_path / "rows.parquet", rows))] == rows


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.jsonl", '{"text": "x"}\n{broken', "line 2: not JSON"),
        ("rows.jsonl", '{"text": "x"}\n[1]', "line 2: expected an object"),
        ("rows.json", '[{"text": "x"}, ', "not JSON"),
        ("rows.json", '[{"text": "x"}, "y"]', "item 2: expected an object"),
        ("rows.json", '{"text": "x"}\n{broken', "line 2: not JSON"),
        ("rows.csv", "text,category\nx,a\ny\n", "line 3: 1 cells where the header names 2 columns (text, category)"),
        ("rows.csv", "text,category\nx,a\ny,b,c\n", "line 3: 3 cells"),
        ("rows.csv", 'text,category\nx,a\n"never closed,b\n', "line 3: broken CSV"),
        ("rows.csv", "text,text\nx,y\n", "line 1: each column needs a name of its own"),
        ("rows.csv", "text,\nx,y\n", "text, (empty)"),
        ("rows.csv", "text,category\n", "empty"),
        ("rows.tsv", "text\tcategory\nx\n", "line 2: 1 cells"),
        ("rows.parquet", "text\nx\n", "not a Parquet file"),
        ("rows.parquet", "", "not a Parquet file"),
        ("rows.xlsx", "", "not read; give one that ends in .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
        *((f"rows.{suffix}", "", "empty") for suffix in ("jsonl", "json", "csv", "tsv")),
    ],
)
def test_a_file_that_is_broken_is_refused_in_one_line(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PromptFileError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(PromptFileError, match="empty"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_another_encoding_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes('text\n"ok"\n"café"\n'.encode("latin-1") if name.endswith("csv") else b'\n\n{"text": "caf\xe9"}')
    with pytest.raises(PromptFileError, match=r"3: not UTF-8 text .*save the file as UTF-8"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "parquet", "xlsx"])
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(PromptFileError, match="no such file"):
        list(read_rows(tmp_path / f"rows.{suffix}"))


def test_what_only_some_files_need_is_not_loaded_for_all() -> None:
    code = "import pkedit.prompts, sys; sys.exit(any(m in sys.modules for m in ('pyarrow', 'huggingface_hub')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
