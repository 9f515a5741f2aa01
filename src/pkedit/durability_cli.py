"""`pkedit durability` on the command line. Its help answers before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pkedit.completion import list_of, run_folders
from pkedit.durability.names import DEFAULT, NAMES
from pkedit.errors import PkeditError
from pkedit.options import ARMS, Json, TrustRemoteCode, Verbose, examples, listed
from pkedit.running import watched
from pkedit.terminal import print_json, results

if TYPE_CHECKING:
    from pkedit.durability.record import DurabilityRecord
    from pkedit.run.watching import Watcher

COSTLY = ", ".join(name for name in NAMES if name not in DEFAULT)


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command(
        "durability",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit durability runs/compare", "the arms of a run under each condition: about 20 minutes on two cores"),
            ("pkedit durability runs/mine --conditions as-is,4-bit --prompts 8", "a first look"),
        ),
    )
    def _durability(
        folder: Annotated[
            Path, typer.Argument(metavar="DIR", help="A finished run folder.", autocompletion=run_folders)
        ],
        conditions: Annotated[
            str | None,
            typer.Option(
                help=f"Comma-separated: {', '.join(NAMES)}. Default: all but the costly ones ({COSTLY}).",
                autocompletion=list_of(*NAMES),
            ),
        ] = None,
        everything: Annotated[
            bool,
            typer.Option(
                "--all",
                metavar="",
                help="The costly conditions too: an hour and a half more for four arms on two cores.",
            ),
        ] = False,
        arms: Annotated[
            str | None,
            typer.Option(
                help="Comma-separated; vanilla, dinm, random and pke by default, as far as the run has them.",
                autocompletion=list_of(*(arm for arm in ARMS if arm != "suffix")),
            ),
        ] = None,
        prompts: Annotated[
            int | None,
            typer.Option(min=2, help="Of each of four groups, from the test split; 24 by default."),
        ] = None,
        as_json: Json = False,
        verbose: Verbose = False,
        trust_remote_code: TrustRemoteCode = False,
    ) -> None:
        """Measure whether an edit lasts: casts, quantisation, sampling, other formats, tuning, merging, ablation.

        An interrupted table resumes, and later calls add conditions and arms to it: DIR/durability.json.
        """
        if everything and conditions is not None:
            raise PkeditError("--all is every condition, so it does not go with --conditions; give one of the two")

        def work(watcher: "Watcher") -> "DurabilityRecord":
            from pkedit.durability.command import durability
            from pkedit.durability.watching import DurabilityView

            with DurabilityView(watcher, watcher.console) as view:
                return durability(
                    folder,
                    conditions=tuple(NAMES) if everything else listed(conditions),
                    arms=listed(arms),
                    prompts=prompts,
                    trust_remote_code=trust_remote_code,
                    observer=view,
                    told=view.told,
                )

        record = watched(work, verbose=verbose)
        from pkedit.durability.printing import print_durability
        from pkedit.report import build_report

        build_report(folder)
        if as_json:
            print_json({"folder": folder, **record.model_dump(mode="json")})
        else:
            print_durability(record, folder, results())
