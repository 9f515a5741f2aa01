"""Imports go one way, from the command line down to the errors, and what needs no torch does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pkedit

ROOT = Path(pkedit.__file__).parent
# From the top; a package may import from its own row and from the rows below.
ROWS = (
    (
        *("cli", "bench_cli", "chat_cli", "check_cli", "durability_cli"),
        *("export_cli", "judges_cli", "safeedit_cli", "stream_cli", "tune_cli"),
        *("options", "completion", "running", "failures", "terminal"),
    ),
    ("bench", "durability", "stream", "talk", "tune"),
    ("report",),
    ("run",),
    ("locate", "edit", "evaluate", "export"),
    ("judges", "models", "prompts"),
    ("settings", "errors", "callable", "observer", "stopping", "visible"),
)
# What a run leaves behind is read by all who show or ship it, so its record stands beside the settings.
RECORD = {"pkedit.run.record", "pkedit.run.wording"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_of(path: Path) -> str:
    return ".".join(["pkedit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Modules of pkedit that this file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import hides its direction"
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "pkedit" and name != "pkedit"}


def row(module: str) -> int:
    """The row of a module, counted from the top; one more than the last for the record."""
    if module in RECORD:
        return len(ROWS)
    package = module.split(".")[1]
    return next(number for number, packages in enumerate(ROWS) if package in packages)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_from_its_own_row_and_below(path: Path) -> None:
    own = module_of(path)
    if own in RECORD:
        assert imported(path) <= {"pkedit.settings", "pkedit.errors", *RECORD}
        return
    upward = {name for name in imported(path) if row(name) < row(own)}
    assert not upward, f"{own} imports from above: {sorted(upward)}"


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path).startswith("pkedit.report")], ids=module_of)
def test_the_report_depends_on_the_run_record_alone(path: Path) -> None:
    others = {name for name in imported(path) if not name.startswith("pkedit.report")}
    assert others <= {"pkedit.errors", "pkedit.visible", *RECORD}


def test_only_the_hooks_module_registers_hooks() -> None:
    registering = {module_of(path) for path in FILES if "register_forward" in path.read_text(encoding="utf-8")}
    assert registering == {"pkedit.models.hooks"}


@pytest.mark.parametrize(
    "statement",
    [
        "import pkedit.cli",
        "import pkedit.report.build",
        "import pkedit.evaluate.stats",
        "import pkedit.judges.rules",
        "import pkedit.prompts",
    ],
)
def test_torch_stays_out_of_what_does_not_need_it(statement: str) -> None:
    code = f"{statement}\nimport sys\nsys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
