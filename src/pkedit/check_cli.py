"""`pkedit check` on the command line. Its help answers before torch is imported."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pkedit.options import with_run_options
from pkedit.settings import RunSettings


def register(app: typer.Typer, prepare: Callable[[bool], None]) -> None:
    """Adds the command to `app`. `prepare` is called first, with whether the libraries may speak."""

    @app.command("check")
    @with_run_options
    def _check(
        settings: RunSettings,
        out: Path,
        verbose: bool,
        as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    ) -> None:
        """Read a model's configuration only: is it supported, does a run fit on this machine, how long does it take?

        Exit codes: 0 it fits, 1 something does not, 2 wrong input.
        """
        prepare(verbose)
        from pkedit.run.check import check
        from pkedit.run.check_table import print_check

        found = check(settings, out)
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=1))
        else:
            print_check(found, Console(width=None if sys.stdout.isatty() else 120))
        if not found.fits:
            raise typer.Exit(1)
