"""A copy of the code and its tests in which every mutant stands beside its original: what mutmut works in."""

import contextlib
import io
import shutil
import tomllib
from pathlib import Path

from undecorated import undecorated

COPIED = ("src", "tests", "pyproject.toml")


def prepare(root: Path, workspace: Path) -> None:
    """Fills `workspace` anew from the project at `root`. mutmut's settings are those of pyproject.toml."""
    if workspace.exists():
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, workspace / name)
    for path in mutated_files(workspace):
        path.write_text(undecorated(path.read_text(encoding="utf-8")), encoding="utf-8")
    _write_mutants(workspace)


def mutated_files(workspace: Path) -> list[Path]:
    """The files that pyproject.toml asks mutmut to change."""
    settings = tomllib.loads((workspace / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    return sorted(path for pattern in settings["only_mutate"] for path in workspace.glob(pattern))


def _write_mutants(workspace: Path) -> None:
    """The first steps of `mutmut run`, which would go on to try them all."""
    from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants

    with contextlib.chdir(workspace), contextlib.redirect_stdout(io.StringIO()):
        Path("mutants").mkdir()
        copy_src_dir()
        copy_also_copy_files()
        create_mutants(max_children=1)
