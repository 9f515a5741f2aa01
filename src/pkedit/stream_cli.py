"""`pkedit stream` on the command line. Its help answers before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pkedit.completion import JUDGES, list_of, models, presets
from pkedit.errors import PkeditError
from pkedit.options import (
    MEASURING,
    SOURCE,
    ChatTemplate,
    Device,
    Dtype,
    Json,
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
    from pkedit.run.watching import Watcher
    from pkedit.stream.record import Measured, StreamRecord
    from pkedit.stream.settings import StreamSettings


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command(
        "stream",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit stream --out runs/stream", "a hundred edits of the embedded model: about 15 minutes on two cores"),
            ("pkedit stream MODEL --questions failures.jsonl", "what users found, in the file's order"),
            ("pkedit stream --out runs/stream --without 7", "takes the seventh edit out again, and measures"),
        ),
    )
    def _stream(
        model: Annotated[
            str | None,
            typer.Argument(
                help="A Hub id, a model folder, a .gguf file, or smollm2 (the embedded default).",
                autocompletion=models,
            ),
        ] = None,
        out: Annotated[Path, typer.Option(help="The folder; an interrupted stream resumes there.")] = Path(
            "runs/stream"
        ),
        edits: Annotated[
            int | None, typer.Option(min=1, help="Edits in all, those of an earlier call too; 100 by default.")
        ] = None,
        questions: Annotated[
            str | None,
            typer.Option(
                metavar=SOURCE,
                help="Harmful prompts to edit on, in their order, instead of ours: JSONL, CSV, Parquet or preset.",
                autocompletion=presets("harmful"),
            ),
        ] = None,
        every_prompt: Annotated[
            bool,
            typer.Option(
                "--every-prompt",
                help="Edit on each prompt in turn, refused already or not, as benchmarks of sequential editing do.",
            ),
        ] = False,
        without: Annotated[
            str | None,
            typer.Option(
                metavar="K,…",
                help="Edit nothing: take these edits out of the stream in --out, and no others; none: put all back.",
            ),
        ] = None,
        as_json: Json = False,
        yes: Yes = False,
        verbose: Verbose = False,
        every: Annotated[
            int | None,
            typer.Option(min=1, help="Measure after so many edits; 20 by default.", rich_help_panel=MEASURING),
        ] = None,
        prompts: Annotated[
            int | None,
            typer.Option(
                min=2, help="Unseen prompts in each of four groups; 48 by default.", rich_help_panel=MEASURING
            ),
        ] = None,
        judges: Annotated[
            str | None,
            typer.Option(
                help="Comma-separated: rules, embedded, guard:MODEL. The first says which prompts fail.",
                autocompletion=list_of(*JUDGES[:-1]),
                rich_help_panel=MEASURING,
            ),
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of the splits, of locating and of editing.")] = None,
        device: Device = None,
        dtype: Dtype = None,
        chat_template: ChatTemplate = None,
        mlp_write: MlpWrite = None,
        trust_remote_code: TrustRemoteCode = False,
        load_in: LoadIn = None,
    ) -> None:
        """Edit on one failing prompt after another, and watch whether earlier fixes hold and what it costs.

        Each edit is kept apart, so that any one can be taken out again later, exactly.
        """
        given = {
            "model": model,
            "edits": edits,
            "questions": questions,
            "every_prompt": every_prompt or None,
            "every": every,
            "prompts": prompts,
            "judges": listed(judges),
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "chat_template": None if chat_template is None else str(chat_template),
            "mlp_write": mlp_write,
            "quantisation": load_in,
        }
        given = {name: value for name, value in given.items() if value is not None}
        numbers = None if without is None else _numbers(without)
        if numbers is not None and given:
            raise PkeditError(
                f"--without takes the settings of the stream in {out}; leave out {', '.join(sorted(given))}"
            )

        def work(watcher: "Watcher") -> "StreamRecord":
            from pkedit.stream.command import run_stream, take_out
            from pkedit.stream.printing import measured_line

            def told(record: "StreamRecord", measured: "Measured") -> None:
                watcher.stage("start")
                watcher.console.print(measured_line(record, measured), highlight=False, markup=False, soft_wrap=True)

            if numbers is not None:
                return take_out(out, numbers, trust_remote_code=trust_remote_code, observer=watcher, told=told)
            settings = _settings(given | ({"trust_remote_code": True} if trust_remote_code else {}))
            return run_stream(settings, out, observer=watcher, told=told)

        record = watched(work, out=out, yes=yes, verbose=verbose)
        from pkedit.stream.printing import print_stream

        if as_json:
            print_json({"folder": out, "record": record})
        else:
            print_stream(record, out, results())


def _numbers(text: str) -> list[int]:
    """`3,7` → the numbers of these edits; `none` → no edit."""
    if text.strip() == "none":
        return []
    try:
        return [int(part) for part in listed(text) or ()]
    except ValueError:
        raise PkeditError(f"--without {text}: write numbers of edits such as 3,7, or none") from None


def _settings(given: dict[str, Any]) -> "StreamSettings":
    """The settings that were given; the others are the defaults."""
    from pkedit.stream.settings import StreamSettings, stream_editing

    if "seed" in given:
        given = {**given, "edit": stream_editing().model_copy(update={"seed": given["seed"]})}
    return StreamSettings.model_validate(given)
