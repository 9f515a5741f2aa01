"""The rules by which a mutant is left out because no promise of the code could tell it from the original.

A rule looks at what kind of code is changed, never at which file or line. Each has its reason beside it.
"""

import ast
from collections.abc import Callable, Iterator

# Original and mutant: the outermost nodes that hold the whole change, then what holds it in them, the innermost last.
Chain = list[tuple[ast.AST, ast.AST]]


def rule_for(before: ast.AST, after: ast.AST) -> str | None:
    """The name of the first rule that leaves out the change from `before` to `after`; None if it has to be noticed."""
    chain = [*_changed(before, after)]
    return next((name for name, holds in RULES.items() if holds(chain)), None)


def _changed(before: ast.AST, after: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    yield before, after
    children = [[*ast.iter_child_nodes(node)] for node in (before, after)]
    if type(before) is type(after) and len(children[0]) == len(children[1]):
        different = [pair for pair in zip(*children, strict=True) if ast.dump(pair[0]) != ast.dump(pair[1])]
        if len(different) == 1:
            yield from _changed(*different[0])


def _error_wording(chain: Chain) -> bool:
    return any(isinstance(node, ast.Raise) for node, _ in chain)


def _sentence(chain: Chain) -> bool:
    return all(isinstance(node, ast.Constant) and str(node.value).count(" ") >= 3 for node in chain[-1])


def _none_for_false(chain: Chain) -> bool:
    before, after = (node.value if isinstance(node, ast.Constant) else node for node in chain[-1])
    return before is False and after is None


def _in_keyword(name: str, chain: Chain) -> list[ast.Call]:
    """The calls in which nothing is different but this argument, or that it is given."""
    calls = [pair for pair in chain if all(isinstance(node, ast.Call) for node in pair)]
    return [before for before, after in calls if _without(name, before) == _without(name, after)]  # type: ignore[misc]


def _without(name: str, call: ast.Call) -> str:
    return ast.dump(ast.Call(call.func, call.args, [keyword for keyword in call.keywords if keyword.arg != name]))


def _encoding(chain: Chain) -> bool:
    return bool(_in_keyword("encoding", chain))


def _strict_zip(chain: Chain) -> bool:
    return any(ast.unparse(call.func) == "zip" for call in _in_keyword("strict", chain))


def _device(chain: Chain) -> bool:
    replaced, _ = chain[-1]
    by_place = isinstance(replaced, ast.expr) and ast.unparse(replaced).endswith("device")
    return by_place or bool(_in_keyword("device", chain))


RULES: dict[str, Callable[[Chain], bool]] = {
    # Tests check that the error is raised, and its kind; pinning every word would only copy the text.
    "wording of an error": _error_wording,
    # Nor do they pin the words of a note, one of four words or more; that it is given is another change.
    "wording of a sentence": _sentence,
    # Where the tests run UTF-8 is the default, so that the bytes are the same without it.
    "name of an encoding": _encoding,
    # A condition cannot tell one from the other, and mypy can.
    "None for False": _none_for_false,
    # It guards what holds by construction: where lengths could differ, a test would be of the code that makes them.
    "strict of a zip": _strict_zip,
    # With one processor there is one device. Tests with tensors that claim others (tests/models/test_devices.py) do
    # notice these changes, but take too long to try every mutant with.
    "device of a tensor": _device,
}
