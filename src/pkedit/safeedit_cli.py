"""`pkedit safeedit`: SafeEdit's protocol on the command line. Its help answers before torch is imported."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pkedit.completion import models
from pkedit.options import (
    MEASURING,
    ChatTemplate,
    Device,
    Dtype,
    Json,
    JudgeApiBase,
    Judges,
    LoadIn,
    MlpWrite,
    TrustRemoteCode,
    Verbose,
    Yes,
    examples,
    listed,
)
from pkedit.running import watched
from pkedit.terminal import print_json, results

if TYPE_CHECKING:
    from pkedit.run.safeedit.settings import SafeEditRecord, SafeEditSettings
    from pkedit.run.spending import Spending
    from pkedit.run.watching import Watcher


class Method(StrEnum):
    """What edits each case; `vanilla` asks the unedited model alone."""

    VANILLA = "vanilla"
    PKE = "pke"
    DINM = "dinm"
    FT = "ft"


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command(
        "safeedit",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit safeedit safeedit --model MODEL --cases 20", "20 of the published cases, with PKE"),
            ("pkedit safeedit safeedit --model MODEL --cases 20 --method dinm", "the same cases with DINM"),
        ),
    )
    def _safeedit(
        file: Annotated[
            Path, typer.Argument(help="A file in SafeEdit's format, or safeedit for its published test cases.")
        ],
        method: Annotated[Method, typer.Option(help="What edits each case; vanilla: nothing.")] = Method.PKE,
        cases: Annotated[int | None, typer.Option(help="So many cases, drawn by the seed; all by default.")] = None,
        model: Annotated[
            str,
            typer.Option(
                metavar="MODEL", help="A Hub id, a model folder, a .gguf file, or smollm2.", autocompletion=models
            ),
        ] = "smollm2",
        fast: Annotated[
            bool,
            typer.Option(
                "--fast",
                metavar="",
                help="PKE reads each prompt once and trains at the tokens that decide.",
            ),
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option(help="The run folder; an interrupted run resumes there. Default: runs/safeedit-METHOD."),
        ] = None,
        as_json: Json = False,
        yes: Yes = False,
        verbose: Verbose = False,
        judges: Judges = None,
        judge_api_base: JudgeApiBase = None,
        max_new_tokens: Annotated[
            int | None,
            typer.Option(
                help="Answers are cut after so many tokens; SafeEdit's own after 600.", rich_help_panel=MEASURING
            ),
        ] = None,
        no_vanilla: Annotated[
            bool,
            typer.Option(
                "--no-vanilla", metavar="", help="Do not ask the unedited model too.", rich_help_panel=MEASURING
            ),
        ] = False,
        seed: Annotated[int | None, typer.Option(help="Seed of the draw, of locating and of editing.")] = None,
        device: Device = None,
        dtype: Dtype = None,
        chat_template: ChatTemplate = None,
        mlp_write: MlpWrite = None,
        trust_remote_code: TrustRemoteCode = False,
        load_in: LoadIn = None,
    ) -> None:
        """Edit on one case of SafeEdit at a time, test it, revert, and average: the columns of its published table."""
        folder = out or Path("runs") / f"safeedit-{method.value}"

        def settings() -> "SafeEditSettings":
            return _settings(
                file=str(file),
                method=method.value,
                model=model,
                vanilla=not no_vanilla,
                judges=listed(judges),
                judge_api_base=judge_api_base,
                max_new_tokens=max_new_tokens,
                seed=seed,
                device=device,
                dtype=dtype,
                chat_template=None if chat_template is None else str(chat_template),
                mlp_write=mlp_write,
                trust_remote_code=trust_remote_code or None,
                quantisation=load_in,
                fast=fast or None,
                cases=cases,
            )

        def work(watcher: "Watcher") -> "SafeEditRecord":
            from pkedit.run.safeedit.protocol import run_safeedit

            return run_safeedit(settings(), folder, observer=watcher)

        def bill() -> "list[Spending]":
            from pkedit.run.spending import safeedit_spending

            return safeedit_spending(settings(), folder)

        record = watched(work, out=folder, bill=bill, yes=yes, verbose=verbose)
        from pkedit.run.next_steps import next_safeedit
        from pkedit.run.safeedit.protocol import print_safeedit
        from pkedit.run.summary import print_steps

        steps = next_safeedit(record)
        if as_json:
            print_json({"folder": folder, "next": [step.command for step in steps], "record": record})
        else:
            print_safeedit(record, folder, results())
            print_steps(results(), steps)


def _settings(*, seed: int | None, **given: Any) -> "SafeEditSettings":
    """The settings that were given; the others are the defaults."""
    from pkedit.run.safeedit.settings import SafeEditSettings, one_instance_editing

    if seed is not None:
        given |= {"seed": seed, "edit": one_instance_editing().model_copy(update={"seed": seed})}
    return SafeEditSettings.model_validate({name: value for name, value in given.items() if value is not None})
