"""The mutants of a prepared workspace: what each changes, whether a rule leaves it out, what became of it."""

import ast
import difflib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equivalent import rule_for
from mutmut.stats import status_by_exit_code
from workspace import mutated_files


@dataclass(frozen=True)
class Mutant:
    """One change of one function."""

    name: str  # as mutmut calls it
    file: str  # relative to src/pkedit
    rule: str | None  # the rule that leaves it out
    difference: str  # unified, of the function


def read_mutants(workspace: Path) -> list[Mutant]:
    """All mutants, in the order of files and names."""
    return [mutant for path in mutated_files(workspace) for mutant in _of_file(workspace, path)]


def sample(mutants: Iterable[Mutant], size: int | None, seed: int) -> list[Mutant]:
    """`size` of those that no rule leaves out, drawn by `seed`; all of them for None, or if there are no more."""
    wanted = [mutant for mutant in mutants if mutant.rule is None]
    if size is None or size >= len(wanted):
        return wanted
    return random.Random(seed).sample(wanted, size)


def statuses(workspace: Path, mutants: Sequence[Mutant]) -> dict[str, str]:
    """By the mutant's name: killed, timeout, survived, no tests, or what else mutmut says."""
    codes: dict[str, int | None] = {}
    for path in mutated_files(workspace):
        codes |= json.loads(_meta(workspace, path).read_text(encoding="utf-8"))["exit_code_by_key"]
    return {mutant.name: status_by_exit_code[codes[mutant.name]] for mutant in mutants}


def _meta(workspace: Path, path: Path) -> Path:
    return workspace / "mutants" / path.relative_to(workspace).with_suffix(".py.meta")


def _of_file(workspace: Path, path: Path) -> list[Mutant]:
    source = (workspace / "mutants" / path.relative_to(workspace)).read_text(encoding="utf-8")
    lines = source.splitlines()
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    names = json.loads(_meta(workspace, path).read_text(encoding="utf-8"))["exit_code_by_key"]
    found = []
    for name in names:
        own = name.rpartition(".")[2]
        after, before = functions[own], functions[re.sub(r"__mutmut_\d+$", "__mutmut_orig", own)]
        difference = difflib.unified_diff(_lines(lines, before), _lines(lines, after), n=1, lineterm="")
        found.append(
            Mutant(
                name,
                str(path.relative_to(workspace / "src" / "pkedit")),
                rule_for(_without_name(before), _without_name(after)),
                "\n".join([*difference][2:]),
            )
        )
    return found


def _without_name(function: ast.FunctionDef) -> ast.Module:
    return ast.Module([function.args, *function.body], [])  # type: ignore[list-item]


def _lines(lines: Sequence[str], function: ast.FunctionDef) -> list[str]:
    """The function as it stands in the file, under one name whichever mutant it is."""
    first, *others = lines[function.lineno - 1 : function.end_lineno]
    return [first.replace(function.name, function.name.partition("__mutmut")[0]), *others]
