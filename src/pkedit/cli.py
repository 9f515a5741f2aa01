"""The command line: it answers `--help` before torch is imported, and ends every failure with one line.

Results go to standard output, and with `--json` they are one JSON document. Progress, questions and errors go to
standard error. Exit codes: 0 done; 1 `check` found that a run would not fit, or a fault in pkedit itself; 2 a mistake
that the user can mend; 130 interrupted, 143 stopped by SIGTERM: both leave a run that can be resumed.
"""

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pkedit import (
    bench_cli,
    chat_cli,
    check_cli,
    durability_cli,
    export_cli,
    judges_cli,
    safeedit_cli,
    stream_cli,
    tune_cli,
)
from pkedit.completion import run_folders
from pkedit.errors import PkeditError
from pkedit.failures import failure
from pkedit.options import MEASURING, Json, examples, with_run_options
from pkedit.running import watched
from pkedit.stopping import INTERRUPTED, TERMINATED, Stopped, stopped_message, terminated_as_interrupted
from pkedit.terminal import print_json, results, unbreakable_streams

if TYPE_CHECKING:
    from pkedit.run.record import RunRecord
    from pkedit.settings import RunSettings

MAIN, STAGES, SHIP, COMPARE = "The main job", "Its stages, one by one", "Look, try and ship", "Compare and judge"

app = typer.Typer(
    name="pkedit",
    help="Edits a few neurons of an open-weight chat model so that it refuses harmful requests, and measures the cost.",
    epilog=examples(
        ("pkedit run", "make the small model that comes with pkedit safer: about 6 minutes on two cores"),
        ("pkedit check MODEL", "does a run of MODEL fit on this machine, and how long would it take?"),
        ("pkedit run MODEL --out runs/mine", "a Hub id, a model folder or a .gguf file"),
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class Engine(StrEnum):
    """What writes the answers that `pkedit evaluate` measures."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.command(
    "run",
    rich_help_panel=MAIN,
    epilog=examples(
        ("pkedit run meta-llama/Llama-2-7b-chat-hf --out runs/llama", "locate, edit, measure, report"),
        ("pkedit run --arms vanilla,suffix,dinm,ft,random,pke --out runs/compare", "beside the baselines"),
        ("pkedit run MODEL --harmful advbench --judges rules,guard:MODEL", "other prompts, other judges"),
    ),
)
@with_run_options
def _run(settings: "RunSettings", out: Path, as_json: bool, yes: bool, verbose: bool, arguments: Sequence[str]) -> None:
    """Locate, edit, measure and report: everything, in one command."""
    _through(settings, out, "measure", as_json=as_json, yes=yes, verbose=verbose, arguments=arguments)


check_cli.register(app, MAIN)
tune_cli.register(app, MAIN)
stream_cli.register(app, MAIN)


@app.command("locate", rich_help_panel=STAGES)
@with_run_options
def _locate(
    settings: "RunSettings", out: Path, as_json: bool, yes: bool, verbose: bool, arguments: Sequence[str]
) -> None:
    """Find the neurons that produce harmful answers, and check them against random ones."""
    _through(settings, out, "locate", as_json=as_json, yes=yes, verbose=verbose, arguments=arguments)


@app.command("edit", rich_help_panel=STAGES)
@with_run_options
def _edit(
    settings: "RunSettings", out: Path, as_json: bool, yes: bool, verbose: bool, arguments: Sequence[str]
) -> None:
    """Locate and edit, without measuring; `pkedit run` with the same options goes on from there."""
    _through(settings, out, "edit", as_json=as_json, yes=yes, verbose=verbose, arguments=arguments)


@app.command(
    "evaluate",
    rich_help_panel=STAGES,
    epilog=examples(
        ("pkedit evaluate MODEL --delta runs/mine/delta.safetensors --out runs/again", "with and without an edit"),
        ("pkedit evaluate openai:gpt-4-0613 --out runs/gpt4", "a closed model; the key is read from OPENAI_API_KEY"),
        ("pkedit evaluate MODEL --api-base http://localhost:8000/v1", "a server of your own"),
    ),
)
@with_run_options
def _evaluate(
    settings: "RunSettings",
    out: Path,
    as_json: bool,
    yes: bool,
    verbose: bool,
    arguments: Sequence[str],
    delta: Annotated[
        Path | None,
        typer.Option(
            help="A delta.safetensors to measure beside the model as it is.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    api_base: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="OpenAI-compatible endpoint: MODEL is asked there.", rich_help_panel=MEASURING
        ),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="vllm asks a saved model faster, and measures its answers alone.", rich_help_panel=MEASURING),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="With --engine vllm: a PEFT adapter to measure beside the model as it is.", rich_help_panel=MEASURING
        ),
    ] = None,
) -> None:
    """Measure a model as it is, before and after a delta, or behind an API (openai:MODEL, anthropic:MODEL)."""
    if delta is not None:
        settings = settings.model_copy(update={"delta": str(delta)})
    if api_base is not None:
        settings = settings.model_copy(update={"api_base": api_base})
    if engine is not None:
        settings = settings.model_copy(update={"engine": engine.value})
    if adapter is not None:
        settings = settings.model_copy(update={"adapter": str(adapter)})

    def work(observer: Any) -> "RunRecord":
        from pkedit.run.evaluation import evaluate

        return evaluate(settings, out, observer=observer)

    _watched_run(settings, out, work, as_json=as_json, yes=yes, verbose=verbose, arguments=arguments)


export_cli.register(app, SHIP)


@app.command("report", rich_help_panel=SHIP)
def _report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=run_folders)], as_json: Json = False
) -> None:
    """Write report.html anew from what a run recorded."""
    from pkedit.report import build_report

    page = build_report(folder)
    if as_json:
        print_json({"folder": folder, "report": page})
    else:
        typer.echo(page)


@app.command("table", rich_help_panel=COMPARE)
def _table(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Run folders that were asked the same prompts.", autocompletion=run_folders),
    ],
    over_seeds: Annotated[
        bool,
        typer.Option(
            "--over-seeds",
            help="The folders are runs with other seeds and otherwise alike: print means over them, and differences of "
            "arms run by run.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the arms of several runs in one table: an edited model beside closed ones."""
    if over_seeds:
        from pkedit.run.over_seeds import over_seeds as means_of
        from pkedit.run.over_seeds import print_over_seeds

        found = means_of(folders)
        if as_json:
            print_json(
                {
                    "folders": folders,
                    "seeds": found.seeds,
                    "metrics": found.merged.metrics,
                    "differences": found.differences,
                }
            )
        else:
            print_over_seeds(found, results())
        return
    from pkedit.run.side_by_side import print_side_by_side, side_by_side

    merged = side_by_side(folders)
    if as_json:
        print_json({"folders": folders, "metrics": merged.metrics})
    else:
        print_side_by_side(merged, results())


chat_cli.register(app, SHIP)
judges_cli.register(app, COMPARE)
safeedit_cli.register(app, COMPARE)
durability_cli.register(app, COMPARE)
bench_cli.register(app, COMPARE)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pkedit {version('pkedit')}")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, metavar="", help="Print the version and stop."
        ),
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with the codes that this file begins with."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    unbreakable_streams()
    message, code = "", 0
    try:
        with terminated_as_interrupted():
            code = app(given, standalone_mode=False, prog_name="pkedit", obj=given) or 0
        if code in (INTERRUPTED, TERMINATED):
            message = stopped_message(given, code, None)
    except Stopped as stopped:
        message, code = stopped_message(given, stopped.code, stopped.out, stopped.left), stopped.code
    except (KeyboardInterrupt, typer.Abort):
        message, code = stopped_message(given, INTERRUPTED, None), INTERRUPTED
    except Exception as error:  # noqa: BLE001 - told in one line, a bug with its traceback in a file
        message, code = failure(error, given)
    if message:
        print(f"pkedit: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _through(settings: "RunSettings", out: Path, until: Literal["locate", "edit", "measure"], **how: Any) -> None:
    if settings.delta is not None or settings.adapter is not None:
        raise PkeditError("the settings name an edit that exists already; measure it with pkedit evaluate")

    def work(observer: Any) -> "RunRecord":
        from pkedit.run.pipeline import run

        return run(settings, out, until=until, observer=observer)

    _watched_run(settings, out, work, **how)


def _watched_run(
    settings: "RunSettings",
    out: Path,
    work: "Callable[[Any], RunRecord]",
    *,
    as_json: bool,
    yes: bool,
    verbose: bool,
    arguments: Sequence[str],
) -> None:
    """Runs with live progress, then writes the report, and prints the summary or its JSON."""

    def bill() -> Any:
        from pkedit.run.spending import run_spending

        return run_spending(settings, out)

    record = watched(work, out=out, bill=bill, yes=yes, verbose=verbose)
    from pkedit.report import build_report
    from pkedit.run.next_steps import next_steps
    from pkedit.run.summary import print_summary, written_files

    build_report(out)
    if as_json:
        files = {path.name: path for path in written_files(out)}
        steps = [step.command for step in next_steps(record, out, arguments)]
        print_json({"folder": out, "files": files, "next": steps, "record": record})
    else:
        print_summary(results(), record, out, arguments)


if __name__ == "__main__":
    main()
