"""`pkedit safeedit`: SafeEdit's protocol on the command line. Its help answers before torch is imported."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class Method(StrEnum):
    """What edits each case; `vanilla` asks the unedited model alone."""

    VANILLA = "vanilla"
    PKE = "pke"
    DINM = "dinm"
    FT = "ft"


def register(app: typer.Typer, prepare: Callable[[bool], None]) -> None:
    """Adds the command to `app`. `prepare` is called first, with whether the libraries may speak."""

    @app.command("safeedit")
    def _safeedit(
        file: Annotated[
            Path, typer.Argument(help="A file in SafeEdit's format, or safeedit for its published test cases.")
        ],
        method: Annotated[Method, typer.Option(help="What edits each case; vanilla: nothing.")] = Method.PKE,
        cases: Annotated[int | None, typer.Option(help="So many cases, drawn by the seed; all by default.")] = None,
        model: Annotated[str, typer.Option(help="A Hub id, a model folder, a .gguf file, or smollm2.")] = "smollm2",
        out: Annotated[
            Path | None,
            typer.Option(help="The run folder; an interrupted run resumes there. Default: runs/safeedit-METHOD."),
        ] = None,
        judges: Annotated[
            str | None, typer.Option(help="Comma-separated: rules, embedded, guard:MODEL, remote:MODEL. First counts.")
        ] = None,
        judge_api_base: Annotated[
            str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint of remote judges.")
        ] = None,
        max_new_tokens: Annotated[
            int | None, typer.Option(help="Answers are cut after so many tokens; SafeEdit's own after 600.")
        ] = None,
        no_vanilla: Annotated[bool, typer.Option("--no-vanilla", help="Do not ask the unedited model too.")] = False,
        seed: Annotated[int | None, typer.Option(help="Seed of the draw, of locating and of editing.")] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto; the best one by default.")] = None,
        dtype: Annotated[
            str | None, typer.Option(help="float32, bfloat16 or float16; chosen by device otherwise.")
        ] = None,
        chat_template: Annotated[
            Path | None, typer.Option(help="Jinja file, for a chat model whose tokenizer has no template.")
        ] = None,
        mlp_write: Annotated[
            str | None,
            typer.Option(
                metavar="PATH", help="The MLP's write matrix in a layer, for an unknown architecture."
            ),
        ] = None,
        trust_remote_code: Annotated[
            bool,
            typer.Option("--trust-remote-code", help="Let the model run Python code from its repository here."),
        ] = False,
        load_in: Annotated[
            str | None,
            typer.Option(metavar="4bit|8bit", help="Quantise the model at load; the edit acts beside it."),
        ] = None,
        fast: Annotated[
            bool,
            typer.Option("--fast", help="PKE reads each prompt once and trains at the tokens that decide, in 8 steps."),
        ] = False,
        verbose: Annotated[bool, typer.Option("--verbose", help="Show the libraries' own messages.")] = False,
    ) -> None:
        """Edit on one case of SafeEdit at a time, test it, revert, and average: the columns of its published table."""
        prepare(verbose)
        from pkedit.run.safeedit.protocol import print_safeedit, run_safeedit
        from pkedit.run.safeedit.settings import SafeEditSettings, one_instance_editing
        from pkedit.run.watching import Watcher

        given = {
            "judges": None if judges is None else tuple(name.strip() for name in judges.split(",") if name.strip()),
            "judge_api_base": judge_api_base,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "edit": None if seed is None else one_instance_editing().model_copy(update={"seed": seed}),
            "device": device,
            "dtype": dtype,
            "chat_template": None if chat_template is None else str(chat_template),
            "mlp_write": mlp_write,
            "trust_remote_code": trust_remote_code or None,
            "quantisation": load_in,
            "fast": fast or None,
            "cases": cases,
        }
        settings = SafeEditSettings.model_validate(
            {
                "file": str(file),
                "method": method.value,
                "model": model,
                "vanilla": not no_vanilla,
                **{name: value for name, value in given.items() if value is not None},
            }
        )
        out = out or Path("runs") / f"safeedit-{method.value}"
        console = Console(width=None if sys.stdout.isatty() else 120)
        with Watcher(console) as watcher:
            record = run_safeedit(settings, out, observer=watcher)
        print_safeedit(record, out, console)
