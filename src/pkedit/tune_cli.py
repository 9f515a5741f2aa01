"""`pkedit tune` on the command line. Its help answers before torch is imported."""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pkedit.errors import PkeditError
from pkedit.options import examples, with_run_options
from pkedit.running import watched
from pkedit.terminal import print_json, results
from pkedit.tune import CHOSEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pkedit.run.record import RunRecord
    from pkedit.run.spending import Spending
    from pkedit.run.watching import Watcher
    from pkedit.settings import RunSettings
    from pkedit.tune.search import Found

FOLDER = Path("runs/tune")


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @with_run_options
    def _tune(
        settings: "RunSettings",
        out: Path,
        as_json: bool,
        yes: bool,
        verbose: bool,
        trials: Annotated[int, typer.Option(min=1, help="Settings to try in all, those of an earlier call too.")] = 30,
        timeout: Annotated[
            float | None, typer.Option(min=0, metavar="MINUTES", help="Begin no further trial after so many minutes.")
        ] = None,
    ) -> None:
        """Search settings for the best trade-off on prompts kept apart for it, then measure the chosen ones.

        An interrupted search resumes in --out. The run with the chosen settings, its report too, is in OUT/chosen.
        """
        _search_and_measure(settings, out, trials, timeout, as_json=as_json, yes=yes, verbose=verbose)

    signature = inspect.signature(_tune)
    # The default of the other commands holds a run.
    _tune.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one.replace(default=FOLDER) if one.name == "out" else one for one in signature.parameters.values()]
    )
    epilog = examples(
        ("pkedit tune --out runs/tune", "thirty settings for the model that comes with pkedit: an hour on two cores"),
        ("pkedit tune MODEL --timeout 120", "as many trials as begin within two hours"),
    )
    app.command("tune", rich_help_panel=panel, epilog=epilog)(_tune)


def _search_and_measure(
    settings: "RunSettings",
    out: Path,
    trials: int,
    minutes: float | None,
    *,
    as_json: bool,
    yes: bool,
    verbose: bool,
) -> None:
    if find_spec("optuna") is None:
        raise PkeditError("pkedit tune needs optuna, which is not installed; run: pip install 'pkedit[tune]'")

    def bill() -> "Sequence[Spending]":
        from pkedit.tune.spending import search_spending

        return search_spending(settings, out / CHOSEN, trials)

    def work(watcher: "Watcher") -> "tuple[Found, RunRecord]":
        import optuna

        from pkedit.tune.search import measure_chosen, search
        from pkedit.tune.watching import SearchView

        if not verbose:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
        with SearchView(watcher, watcher.console) as view:
            found = search(settings, out, trials=trials, minutes=minutes, observer=view)
        return found, measure_chosen(found, out, observer=watcher)

    found, record = watched(work, out=out, bill=bill, yes=yes, verbose=verbose)
    from pkedit.report import build_report
    from pkedit.run.summary import print_summary
    from pkedit.tune.printing import print_found

    folder = out / CHOSEN
    build_report(folder)
    if as_json:
        print_json({**found.as_json(), "folder": folder, "record": record})
        return
    print_found(results(), found, record, ended_early=minutes is None and len(found.trials) < trials)
    print_summary(results(), record, folder)
