"""`pkedit check` on the command line. Its help answers before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pkedit.options import with_run_options
from pkedit.running import watched
from pkedit.terminal import print_json, results

if TYPE_CHECKING:
    from pkedit.run.check import Check
    from pkedit.run.watching import Watcher
    from pkedit.settings import RunSettings


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command("check", rich_help_panel=panel)
    @with_run_options
    def _check(settings: "RunSettings", out: Path, as_json: bool, verbose: bool) -> None:
        """Read a model's configuration only: is it supported, does a run fit on this machine, how long does it take?

        Exit codes: 0 it fits, 1 something does not, 2 wrong input.
        """

        def work(watcher: "Watcher") -> "Check":
            from pkedit.run.check import check

            watcher.stage("check")
            return check(settings, out)

        found = watched(work, verbose=verbose)
        if as_json:
            print_json(found.as_json())
        else:
            from pkedit.run.check_table import print_check

            print_check(found, results())
        if not found.fits:
            raise typer.Exit(1)
