"""Prompt files made to exhaust memory or time, or to break what reads them, are refused in one line."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pkedit.errors import PromptFileError
from pkedit.prompts import columns, parquet, tables
from pkedit.prompts.loading import load_prompts
from pkedit.prompts.safeedit import load_safeedit
from pkedit.prompts.sources import load_prompts_from
from pkedit.prompts.types import Kind

GIB = 1 << 30


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def refused(path: Path, said: str) -> None:
    with pytest.raises(PromptFileError, match=said) as told:
        load_prompts(path, Kind.HARMFUL)
    assert "\n" not in str(told.value)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 1500


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_a_line_of_a_gigabyte_is_refused_after_a_few_megabytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    with path.open("wb") as file:
        file.truncate(GIB)
    with little_memory(4 * tables.LONGEST_LINE):
        refused(path, "line 1: longer than 8 MiB")


def test_a_long_line_behind_good_ones_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "x"}\n{"text": "y"}\n{"text": "')
        file.truncate(GIB)
    refused(path, "line 3: longer than")


def test_an_array_larger_than_may_be_read_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_ARRAY", 1000)
    path = tmp_path / "large.json"
    path.write_text("[\n" + ",\n".join([json.dumps({"text": "x" * 50})] * 30) + "]")
    refused(path, "too much for one array")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": ' + b"[" * 100_000, "not JSON"),
        (b'{"text": "x", "deep": ' + b'{"a":' * 50_000, "not JSON"),
        (b'{"text": "\\ud800"}', "not JSON .*surrogates"),
        (b'{"text": "x", "id": "a\\udfffb"}', "not JSON .*surrogates"),
        (b'{"text": "x", "id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"text": "x\x00y"}', "not JSON"),
        (b"\x00" * 40, "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"text": "\xc3\x28"}', "not UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"' + b"\\u001b[31m\\n" * 50 + b'": 1}', "no column 'text'"),
        (json.dumps({f"c{n}": n for n in range(10_000)}).encode(), "and 9988 more"),
        (json.dumps({"text": "x", "split": "y" * 100_000}).encode(), "unknown split"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_line_that_is_no_prompt_is_one_printable_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    refused(path, said)


def test_a_pair_of_surrogates_is_a_letter_and_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\\ud83d\\ude00 \\u0000"}')
    assert load_prompts(path, Kind.HARMFUL)[0].text == "😀 \0"


def test_a_field_of_a_spreadsheet_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text('text,id\n"' + "x,\n" * 200_000)
    refused(path, "line 2: broken CSV")
    path.write_text("text\n" + "x" * 200_000)
    refused(path, "line 2: broken CSV")


def test_a_column_is_found_by_no_number_that_python_would_stumble_over() -> None:
    for step in ("²", "٣", "9" * 5000, "-1", "1_0"):
        with pytest.raises(KeyError):
            columns.find({"turns": ["x"]}, f"turns.{step}")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "/dev/zero", "."], ids=["long", "NUL", "device", "folder"])
def test_a_name_that_is_no_file_is_refused(name: str) -> None:
    for load in (lambda: load_prompts(name, Kind.HARMFUL), lambda: load_prompts_from(name, Kind.HARMFUL)):
        with pytest.raises(PromptFileError):
            load()
    with pytest.raises(PromptFileError):
        load_safeedit(name)


def write_parquet(path: Path, rows: int, text: str, **options: object) -> Path:
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": dictionary}), path, **options)
    return path


def test_a_parquet_file_of_many_rows_in_few_bytes_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 1000)
    path = write_parquet(tmp_path / "bomb.parquet", 1_000_000, "x")
    assert path.stat().st_size < 100_000
    refused(path, "1,000,000 rows, and more than 1,000 are not read")


def test_a_parquet_file_that_unpacks_to_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 4 << 20)
    path = write_parquet(tmp_path / "bomb.parquet", 10, "x" * (8 << 20), compression="zstd")
    assert path.stat().st_size < 100_000
    with little_memory(1 << 20):
        refused(path, "unpacks to 8 MiB, and more than 4 MiB")


def test_a_text_that_is_stored_once_and_meant_a_thousand_times_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 4 << 20)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": ["x" * (1 << 20)] * 20}), path, compression="zstd")
    refused(path, "unpacks to 20 MiB")


@pytest.mark.parametrize("cut", [0, 4, 100, -1, -8])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_parquet(tmp_path / "prompts.parquet", 10, "x")
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, "not a Parquet file|empty")


def test_text_in_a_parquet_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    wrong = pa.array([b"\xff\xfe"]).view(pa.binary()).cast(pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 1, wrong.buffers())})
    pq.write_table(table, tmp_path / "prompts.parquet")
    refused(tmp_path / "prompts.parquet", "not a Parquet file that can be read")
