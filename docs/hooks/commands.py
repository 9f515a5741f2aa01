"""Writes the command reference from the typer app when the site is built, so that it never falls behind the code."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from pkedit.cli import app

PAGE = "reference/commands.md"
# An example in a command's help: what to type, and below it what for.
EXAMPLE = re.compile(r"^\[bold\](.+?)\[/\]\n\s*\[dim\](.+?)\[/\]$", re.MULTILINE)


def command_reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    command = get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=Context(command), name="pkedit", title="Commands")
    for name, one in command.commands.items():
        # The list at the top would cut what a command does in the middle of a sentence.
        about = (one.help or "").partition("\n\n")[0]
        text = re.sub(
            rf"^\* `{name}`: .*\.\.\.$", lambda _, told=f"* `{name}`: {about}": told, text, flags=re.MULTILINE
        )
    return EXAMPLE.sub(r"- `\1`: \2", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page."""
    files.append(File.generated(config, PAGE, content=command_reference()))
    return files
