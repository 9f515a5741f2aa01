"""The same code without decorators: `@property def name` as `def plain_name` and `name = property(plain_name)`.

mutmut leaves decorated functions alone, and so would an eighth of the code be. What a decorator means is that
assignment, so nothing else changes. Class methods and static methods stay: mutmut knows those.
"""

from collections.abc import Sequence

import libcst as cst

KNOWN_TO_MUTMUT = ("classmethod", "staticmethod")


def undecorated(source: str) -> str:
    """`source` with every decorated function of the module and of its classes written as function and assignment."""
    module = cst.parse_module(source)
    return module.with_changes(body=_statements(module.body)).code


def _statements(body: Sequence[cst.BaseStatement]) -> list[cst.BaseStatement]:
    written: list[cst.BaseStatement] = []
    for statement in body:
        if isinstance(statement, cst.ClassDef) and isinstance(statement.body, cst.IndentedBlock):
            written.append(statement.with_deep_changes(statement.body, body=_statements(statement.body.body)))
        elif isinstance(statement, cst.FunctionDef) and _applied(statement):
            written.extend(_function_and_assignment(statement))
        else:
            written.append(statement)
    return written


def _applied(function: cst.FunctionDef) -> list[cst.BaseExpression]:
    decorators = [decorator.decorator for decorator in function.decorators]
    return [one for one in decorators if not (isinstance(one, cst.Name) and one.value in KNOWN_TO_MUTMUT)]


def _function_and_assignment(function: cst.FunctionDef) -> tuple[cst.FunctionDef, cst.BaseStatement]:
    plain = cst.Name(f"plain_{function.name.value}")
    value: cst.BaseExpression = plain
    for decorator in reversed(_applied(function)):
        value = cst.Call(decorator, [cst.Arg(value)])
    assignment = cst.Assign([cst.AssignTarget(function.name)], value)
    return function.with_changes(name=plain, decorators=[]), cst.SimpleStatementLine([assignment])
