"""`pkedit export` and `pkedit revert` on the command line. Their help answers before torch is imported."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pkedit.completion import models, run_folders
from pkedit.options import Json, MlpWrite, TrustRemoteCode, Verbose, examples
from pkedit.running import watched
from pkedit.stopping import stoppable
from pkedit.terminal import print_json

if TYPE_CHECKING:
    from pkedit.run.watching import Watcher


class ExportFormat(StrEnum):
    """What `pkedit export` writes."""

    FULL = "full"
    ADAPTER = "adapter"
    DELTA = "delta"


CONTENT = {
    ExportFormat.FULL: "the edited model, its tokenizer and a model card",
    ExportFormat.ADAPTER: "the edit as a PEFT adapter, with a model card",
    ExportFormat.DELTA: "the edit alone, with a model card",
}


def register(app: typer.Typer, panel: str) -> None:
    """Adds the commands to `app`, under this heading of its help."""

    @app.command(
        "export",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit export runs/default --as full --to model", "a model folder for transformers, vLLM and others"),
            ("pkedit export runs/default --as adapter --to adapter", "the edit for PEFT, exactly"),
            ("pkedit export runs/mine --as adapter --to adapter --push me/safer", "and upload it, private"),
        ),
    )
    def _export(
        folder: Annotated[Path, typer.Argument(help="A run folder with an edit.", autocompletion=run_folders)],
        to: Annotated[Path, typer.Option("--to", help="Where to write; absent or empty.")],
        form: Annotated[
            ExportFormat,
            typer.Option("--as", help="A model folder like any other, an adapter for PEFT, or the edit alone."),
        ] = ExportFormat.FULL,
        base: Annotated[
            str | None,
            typer.Option(
                metavar="MODEL",
                help="Put the edit onto these weights: the full precision of what was edited.",
                autocompletion=models,
            ),
        ] = None,
        max_shard_size: Annotated[
            str, typer.Option(metavar="SIZE", help="A larger full model is saved in several files.")
        ] = "5GB",
        no_check: Annotated[
            bool,
            typer.Option("--no-check", metavar="", help="Leave out the check that what was written is the edit."),
        ] = False,
        repository: Annotated[
            str | None,
            typer.Option("--push", metavar="REPO", help="Upload to the Hugging Face Hub; a new repository is private."),
        ] = None,
        trust_remote_code: TrustRemoteCode = False,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        """Save an edit for use without pkedit: as a whole model, as a PEFT adapter, or alone."""
        told: list[str] = []

        def write(watcher: "Watcher") -> str:
            from pkedit.export.adapter import export_adapter
            from pkedit.export.delta import export_delta
            from pkedit.export.full import export_full
            from pkedit.export.opened import how_to_load
            from pkedit.export.push import check_push

            if repository is not None:
                check_push(repository)
            common: dict[str, Any] = {
                "base": base,
                "repository": repository,
                "trust_remote_code": trust_remote_code,
                "tell": told.append,
                "observer": watcher,
            }
            if form is ExportFormat.FULL:
                export_full(folder, to, max_shard_size=max_shard_size, check=not no_check, **common)
            elif form is ExportFormat.ADAPTER:
                export_adapter(folder, to, check=not no_check, **common)
            else:
                export_delta(folder, to, **common)
            return how_to_load(folder, form.value, to, base, trust_remote_code=trust_remote_code)

        line, address = watched(write, verbose=verbose), None
        if not as_json:
            for note in (*told, f"{to}: {CONTENT[form]}"):
                typer.echo(note)
        if repository is not None:
            address = _upload(to, repository, verbose=verbose)
            told.append(f"Uploaded to {address} (a new repository is private; its settings there open it)")
            if not as_json:
                typer.echo(told[-1])
        if as_json:
            print_json({"path": to, "form": form.value, "notes": told, "uploaded_to": address, "load": line})
        else:
            typer.echo(f"Load it: {line}")

    @app.command(
        "revert",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit revert model --delta runs/default/delta.safetensors --to base", "undo export --as full")
        ),
    )
    def _revert(
        edited: Annotated[
            Path, typer.Argument(help="An edited model, as `pkedit export --as full` writes it.", autocompletion=models)
        ],
        delta: Annotated[Path, typer.Option("--delta", help="The delta.safetensors that it was edited with.")],
        to: Annotated[Path, typer.Option("--to", help="Where to write the base; absent or empty.")],
        mlp_write: MlpWrite = None,
        trust_remote_code: TrustRemoteCode = False,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        """Take an edit out of an edited model: what it was made on comes back, bit for bit."""

        def take_out(watcher: "Watcher") -> int:
            from pkedit.export.revert import revert

            return revert(edited, delta, to, mlp_write=mlp_write, trust_remote_code=trust_remote_code, observer=watcher)

        neurons = watched(take_out, verbose=verbose)
        if as_json:
            print_json({"path": to, "neurons": neurons})
        else:
            typer.echo(
                f"{to}: the model that this delta was made on, bit for bit; {neurons} neurons have the vectors again "
                "that they had then"
            )


def _upload(folder: Path, repository: str, *, verbose: bool) -> str:
    """The address; a stop says how to upload what is complete by then."""

    def upload(watcher: "Watcher") -> str:
        from pkedit.export.push import kept, push

        watcher.stage("upload")
        with stoppable(left=kept(folder, repository)):
            return push(folder, repository)

    return watched(upload, verbose=verbose)
