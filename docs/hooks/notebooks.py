"""Shows the notebooks of `examples/` as pages, with the outputs that are stored in them."""

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook."""
    for path in sorted((Path(config.docs_dir).parent / "examples").glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=as_page(path)))
    return files


def as_page(path: Path) -> str:
    """The cells of a notebook as Markdown. Links lead out of `docs/` as those of other pages do."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(_as_linked(cell.source))
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [_output(output) for output in cell.outputs]
    name = path.name
    return "\n\n".join(
        [*parts, f"*This page is the notebook `examples/{name}`, which the tests run from top to bottom.*"]
    )


def _as_linked(text: str) -> str:
    """Links of a notebook as they are written in `docs/examples/`."""
    text = text.replace("](../docs/", "](../").replace("](../src/", "](../../src/")
    return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)


def _output(output: Any) -> str:
    """What a cell printed or drew; drawings and tables as they are, the rest as text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind in ("text/html", "image/svg+xml"):
        if kind in data:
            # A blank line would end the block of HTML.
            return "\n".join(["<div>", *(line for line in data[kind].splitlines() if line.strip()), "</div>"])
    return f"```text\n{data['text/plain'].rstrip()}\n```"
