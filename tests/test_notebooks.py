"""The notebooks of `examples/` run from top to bottom, and show no harmful text."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pkedit.prompts import Kind, builtin_prompts

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def name_of(path: Path) -> str:
    return path.stem


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def shown(cells: list[Any]) -> str:
    """Everything that the cells printed and drew."""
    return json.dumps([cell.outputs for cell in cells], ensure_ascii=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_stored_notebook_was_run_in_order_and_shows_no_harmful_prompt_and_no_place_on_a_machine(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = shown(cells)
    assert str(Path.home()) not in text
    assert str(EXAMPLES.parent) not in text
    assert not [prompt.id for prompt in builtin_prompts(Kind.HARMFUL) if prompt.question in text]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_and_shows_what_it_explains(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel is a process of its own, which would look for the network.
    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ["HF_HUB_OFFLINE"])
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    notebook = nbformat.read(folder / path.name, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    again = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, stored in zip(again, code_cells(path), strict=True):
        kinds = [sorted(output.get("data", {"text": ""})) for output in cell.outputs]
        assert kinds == [sorted(output.get("data", {"text": ""})) for output in stored.outputs], cell.source
    assert not [prompt.id for prompt in builtin_prompts(Kind.HARMFUL) if prompt.question in shown(again)]
