"""`pkedit chat` and `pkedit serve` on the command line. Their help answers before torch is imported."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pkedit.completion import models, run_folders
from pkedit.errors import TalkError
from pkedit.options import ChatTemplate, Device, TrustRemoteCode, Verbose, examples
from pkedit.stopping import stoppable
from pkedit.terminal import prepare

if TYPE_CHECKING:
    from pkedit.talk.subject import Subject

Folder = Annotated[
    Path | None, typer.Argument(help="A run folder with an edit.", show_default=False, autocompletion=run_folders)
]
DeltaFile = Annotated[Path | None, typer.Option("--delta", help="An edit's file, instead of a run folder.")]
Model = Annotated[
    str | None,
    typer.Option(help="With --delta: the model; by default the one that the file names.", autocompletion=models),
]
Scale = Annotated[float, typer.Option(min=0, max=4, help="Strength of the edit to begin with; 0 is none.")]
Tokens = Annotated[int, typer.Option("--max-tokens", min=1, help="An answer is cut here.")]


def register(app: typer.Typer, panel: str) -> None:
    """Adds the commands to `app`, under this heading of its help."""

    @app.command(
        "chat",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit chat runs/default", "/help there lists what can be typed beside questions"),
            ("pkedit chat --delta delta.safetensors --scale 0.5", "an edit's file, at half its strength"),
        ),
    )
    def _chat(
        folder: Folder = None,
        delta: DeltaFile = None,
        model: Model = None,
        scale: Scale = 1.0,
        limit: Tokens = 200,
        device: Device = None,
        chat_template: ChatTemplate = None,
        trust_remote_code: TrustRemoteCode = False,
        verbose: Verbose = False,
    ) -> None:
        """Talk to the model and to its edited self side by side, in the terminal.

        A run's model is opened as in the run, on the same device unless another is given.
        """
        _one_of(folder, delta, model, chat_template)
        with stoppable():
            prepare(verbose)
            from pkedit.talk.terminal import chat_in_terminal

            subject = _subject(folder, delta, model, device, chat_template, trust_remote_code)
            chat_in_terminal(subject, Console(), limit=limit, strength=scale)

    @app.command(
        "serve",
        rich_help_panel=panel,
        epilog=examples(("pkedit serve runs/default --port 8000", "a page at http://127.0.0.1:8000, until Ctrl-C")),
    )
    def _serve(
        folder: Folder = None,
        delta: DeltaFile = None,
        model: Model = None,
        host: Annotated[str, typer.Option(help="Where to listen; 127.0.0.1 is this machine only.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
        scale: Annotated[float, typer.Option(min=0, max=1.5, help="Strength of the edit to begin with.")] = 1.0,
        limit: Tokens = 200,
        device: Device = None,
        chat_template: ChatTemplate = None,
        trust_remote_code: TrustRemoteCode = False,
        verbose: Verbose = False,
    ) -> None:
        """The same on a local web page, with the neurons that fired. Needs the extra `serve`."""
        _one_of(folder, delta, model, chat_template)
        with stoppable():
            from pkedit.talk.web import check_free, require_gradio, serve

            require_gradio()
            check_free(host, port)
            prepare(verbose)
            subject = _subject(folder, delta, model, device, chat_template, trust_remote_code)
            serve(subject, host=host, port=port, limit=limit, strength=scale, tell=_tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _one_of(folder: Path | None, delta: Path | None, model: str | None, chat_template: Path | None) -> None:
    """That either a run folder or an edit's file is named.

    Raises:
        TalkError: neither or both, or options that a run's own settings decide.
    """
    if (folder is None) == (delta is None):
        raise TalkError("name either a run folder or an edit (--delta FILE), for example runs/default")
    if folder is not None and (model is not None or chat_template is not None):
        raise TalkError("a run folder knows its model; --model and --chat-template go with --delta")


def _subject(
    folder: Path | None,
    delta: Path | None,
    model: str | None,
    device: str | None,
    chat_template: Path | None,
    trusted: bool,
) -> "Subject":
    from pkedit.talk.subject import open_delta, open_run

    with Console(stderr=True).status("loading the model …"):
        if folder is not None:
            return open_run(folder, device=device, trust_remote_code=trusted)
        assert delta is not None
        return open_delta(delta, model, device=device, chat_template=chat_template, trust_remote_code=trusted)
