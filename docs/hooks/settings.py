"""Writes the table of all settings from their classes when the site is built: name, default, and the reason for it."""

import json

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from typer.main import get_command

from pkedit.cli import app
from pkedit.settings import EditSettings, EvaluateSettings, LocateSettings, RunSettings

PAGE = "reference/settings.md"
INTRODUCTION = """# Settings

A settings file is a JSON object with some of the names below; what it leaves out keeps its default. Give it with
`--settings FILE`; other options override it. Misspelt and unknown names are refused.

```json
{
 "pairs": 200,
 "locate": {"neurons": 64},
 "evaluate": {"judges": ["rules", "guard:Qwen/Qwen3Guard-Gen-0.6B"]}
}
```
"""
# Characters that Markdown would read as its own.
AS_TEXT = str.maketrans({mark: f"&#{ord(mark)};" for mark in "|{}_*<>"})
GROUPS: dict[str, tuple[str, type[BaseModel]]] = {
    "": ("The run", RunSettings),
    "locate": ("`locate`: how the region is found", LocateSettings),
    "edit": ("`edit`: how δ is trained", EditSettings),
    "evaluate": ("`evaluate`: what is asked, and how", EvaluateSettings),
}


def settings_reference() -> str:
    """One table for each group of settings, as Markdown."""
    parts = [INTRODUCTION]
    for title, settings in GROUPS.values():
        rows = [_row(settings(), name) for name in settings.model_fields if name not in GROUPS]
        parts.append("\n".join([f"## {title}", "", "| setting | default | |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def _row(settings: BaseModel, name: str) -> str:
    """A row of the table."""
    default = json.dumps(settings.model_dump(mode="json")[name], ensure_ascii=False)
    described = type(settings).model_fields[name].description or _help_of_option(name)
    return f"| `{name}` | `{default}` | {described.translate(AS_TEXT)} |"


def _help_of_option(name: str) -> str:
    """What the option of the same name says, for settings that have one and no other description."""
    options = get_command(app).commands["run"].params
    return next((option.help.rstrip(".") for option in options if option.name == name and option.help), "")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page."""
    files.append(File.generated(config, PAGE, content=settings_reference()))
    return files
