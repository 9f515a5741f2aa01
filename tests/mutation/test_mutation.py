"""What is counted as a mutant, what is left out, and what a share of those killed is made of."""

import ast
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from equivalent import rule_for
from mutants import Mutant, sample
from mutmut.mutation.file_mutation import mutate_file_contents
from outcomes import outcome_table, share_killed
from rich.console import Console
from undecorated import undecorated

from branches import main as check_branches

DECORATED = """
from contextlib import contextmanager
from dataclasses import dataclass

SEEN = []

def twice(function):
    return lambda *given: 2 * function(*given)

def plus(number):
    return lambda function: lambda *given: function(*given) + number

@plus(1)
@twice
def three():
    return 3

@contextmanager
def noted(name):
    SEEN.append(name)
    try:
        yield name
    finally:
        SEEN.append("left")

@dataclass(frozen=True)
class Square:
    side: float

    @property
    def area(self):
        return self.side * self.side

    @classmethod
    def of(cls, side):
        return cls(side)
"""


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "decorated"}
    exec(source, names)
    return names


@pytest.mark.parametrize("written", [str, undecorated], ids=["with decorators", "without"])
def test_code_without_decorators_does_the_same(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(written(DECORATED))
    assert names["three"]() == 7
    within: AbstractContextManager[str] = names["noted"]("a")
    with within as name:
        assert name == "a"
    assert names["SEEN"] == ["a", "left"]
    assert names["Square"].of(3.0).area == 9.0


def test_without_decorators_every_function_has_mutants() -> None:
    names = mutate_file_contents("decorated.py", undecorated(DECORATED)).mutant_names
    for function in ("plain_three", "plain_noted", "plain_area"):
        assert any(function in name for name in names)
    assert not any("area" in name for name in mutate_file_contents("decorated.py", DECORATED).mutant_names)


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("raise KeyError('no such key')", "raise KeyError('NO SUCH KEY')", "wording of an error"),
        ("raise KeyError(f'{a} and {b}') from None", "raise KeyError(None) from None", "wording of an error"),
        ("if a < b: raise KeyError('less')", "if a <= b: raise KeyError('less')", None),
        ("raise_to(a, 2)", "raise_to(a, 3)", None),
        ("x = a + b", "x = a - b", None),
        ("x = f'of {n}, the ' 'mean'", "x = f'of {n}, the ' 'MEAN'", None),
        ("x = f'of {n}: ' 'the mean of all pairs'", "x = f'of {n}: ' 'THE MEAN OF ALL PAIRS'", "wording of a sentence"),
        ("note('the mean of all pairs')", "note(None)", None),
        ("x['write']", "x['WRITE']", None),
        ("p.write_text(x, encoding='utf-8')", "p.write_text(x, encoding='UTF-8')", "name of an encoding"),
        ("p.write_text(x, encoding='utf-8')", "p.write_text(None, encoding='utf-8')", None),
        ("x = {'raise': 1}", "x = {'RAISE': 1}", None),
        ("f(a, ended=False)", "f(a, ended=None)", "None for False"),
        ("f(a, ended=False)", "f(a, ended=True)", None),
        ("f(a, ended=True)", "f(a, ended=None)", None),
        ("f(a, number=0)", "f(a, number=None)", None),
        ("p.write_text(x, encoding='utf-8')", "p.write_text(x, )", "name of an encoding"),
        ("x = zip(a, b, strict=True)", "x = zip(a, b, strict=False)", "strict of a zip"),
        ("x = shape(a, strict=True)", "x = shape(a, strict=False)", None),
        ("x = zip(a, b, strict=True)", "x = zip(a, b, )", "strict of a zip"),
        ("x = zip(a, b, strict=True)", "x = zip(a, None, strict=True)", None),
        ("x = zip(a, f(b), strict=True)", "x = zip(a, f(None), strict=True)", None),
        ("x = zeros(n, device=a.device)", "x = zeros(n, )", "device of a tensor"),
        ("x = zeros(n, device=a.device)", "x = zeros(n, device=None)", "device of a tensor"),
        ("x = zeros(n, device=a.device)", "x = zeros(device=a.device)", None),
        ("x = y.to(self.device)", "x = y.to(None)", "device of a tensor"),
        ("x = y.to(self.dtype)", "x = y.to(None)", None),
    ],
)
def test_only_what_a_rule_names_is_left_out(before: str, after: str, rule: str | None) -> None:
    assert rule_for(ast.parse(before), ast.parse(after)) == rule


def mutants(file: str, count: int, *, rule: str | None = None) -> list[Mutant]:
    return [Mutant(f"{file}.{rule}.{number}", file, rule, "") for number in range(count)]


def test_a_sample_is_drawn_by_its_seed_from_what_is_not_left_out() -> None:
    every = [*mutants("a.py", 30), *mutants("b.py", 30, rule="wording of an error")]
    first = sample(every, 10, 0)
    assert first == sample(every, 10, 0)
    assert first != sample(every, 10, 1)
    assert len({mutant.name for mutant in first}) == 10
    assert {mutant.file for mutant in first} == {"a.py"}
    assert sample(every, None, 0) == sample(every, 99, 3) == every[:30]


def test_the_table_counts_what_was_tried_and_what_was_noticed() -> None:
    every = [*mutants("a.py", 4), *mutants("a.py", 2, rule="wording of an error"), *mutants("b.py", 3)]
    statuses = ["killed", "timeout", "survived", "no tests"]
    status_by_name = {mutant.name: status for mutant, status in zip(every[:4], statuses, strict=True)}
    console = Console(record=True, width=110)
    console.print(outcome_table(every, status_by_name))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["a.py", "6", "2", "4", "1", "1", "2", "50.0"] in rows
    assert ["b.py", "3", "0", "0", "0", "0", "0", "–"] in rows
    assert ["all", "9", "2", "4", "1", "1", "2", "50.0"] in rows
    share = share_killed(status_by_name)
    assert (share.value, share.n) == (0.5, 4)
    assert share.low < 0.2 < 0.8 < share.high


@pytest.mark.parametrize(("covered", "code"), [(90.0, 0), (89.9, 1)])
def test_too_few_covered_branches_fail(tmp_path: Path, covered: float, code: int) -> None:
    report = tmp_path / "report.json"
    shares = {"percent_branches_covered": covered, "percent_statements_covered": 100.0}
    report.write_text(json.dumps({"totals": {**shares, "num_branches": 1000, "num_statements": 1000}}))
    assert check_branches(str(report)) == code
