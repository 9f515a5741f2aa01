"""`pkedit judge-agreement` on the command line. Its help answers before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pkedit.completion import JUDGES, one_of
from pkedit.options import Json, JudgeApiBase, Verbose, Yes
from pkedit.running import watched
from pkedit.terminal import print_json, results

if TYPE_CHECKING:
    from pkedit.run.agreement import JudgeAgreement
    from pkedit.run.spending import Spending
    from pkedit.run.watching import Watcher


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command("judge-agreement", rich_help_panel=panel)
    def _judge_agreement(
        file: Annotated[Path, typer.Argument(help="Labelled answers: JSONL, CSV or Parquet.")],
        judge: Annotated[
            list[str],
            typer.Option(
                help="rules, embedded, guard:MODEL or remote:MODEL; may be given several times.",
                autocompletion=one_of(*JUDGES),
            ),
        ] = ["rules", "embedded"],  # noqa: B006
        columns: Annotated[
            str | None,
            typer.Option(help="Which column holds what: question=prompt,answer=Response,harmful=label."),
        ] = None,
        cut: Annotated[
            list[int] | None, typer.Option(min=1, help="Also judge answers cut to so many characters.")
        ] = None,
        api_base: JudgeApiBase = None,
        as_json: Json = False,
        yes: Yes = False,
        verbose: Verbose = False,
    ) -> None:
        """Measure how far judges agree with people who labelled the same answers."""
        cuts = cut or []

        def work(watcher: "Watcher") -> "JudgeAgreement":
            from pkedit.run.agreement import judge_agreement

            return judge_agreement(file, judge, columns=columns, cuts=cuts, api_base=api_base, observer=watcher)

        def bill() -> "list[Spending]":
            from pkedit.judges.labelled import load_labelled
            from pkedit.run.spending import labelled_spending

            return labelled_spending(load_labelled(file, columns), judge, api_base, passes=1 + len(cuts))

        found = watched(work, bill=bill, yes=yes, verbose=verbose)
        if as_json:
            print_json(found)
        else:
            from pkedit.run.agreement import print_agreement

            print_agreement(found, results())
