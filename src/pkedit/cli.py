"""The command line. It answers `--help` before torch is imported, and prints errors a user can mend as one line."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from pkedit import bench_cli, check_cli, safeedit_cli
from pkedit.errors import PkeditError
from pkedit.options import with_run_options
from pkedit.settings import RunSettings

app = typer.Typer(
    name="pkedit",
    help="Edits a few neurons of an open-weight chat model so that it refuses harmful requests, and measures the cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

MEMORY_ADVICE = "not enough memory; try --dtype bfloat16, a smaller model, or fewer --pairs and --demonstrations"


class ExportFormat(StrEnum):
    """What `pkedit export` writes."""

    FULL = "full"


class Engine(StrEnum):
    """What writes the answers that `pkedit evaluate` measures."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.command("run")
@with_run_options
def _run(settings: RunSettings, out: Path, verbose: bool) -> None:
    """Locate, edit, measure and report: everything, in one command."""
    _through(settings, out, "measure", verbose=verbose)


@app.command("locate")
@with_run_options
def _locate(settings: RunSettings, out: Path, verbose: bool) -> None:
    """Find the neurons that produce harmful answers, and check them against random ones."""
    _through(settings, out, "locate", verbose=verbose)


@app.command("edit")
@with_run_options
def _edit(settings: RunSettings, out: Path, verbose: bool) -> None:
    """Locate and edit, without measuring; `pkedit run` with the same options goes on from there."""
    _through(settings, out, "edit", verbose=verbose)


@app.command("evaluate")
@with_run_options
def _evaluate(
    settings: RunSettings,
    out: Path,
    verbose: bool,
    delta: Annotated[
        Path | None, typer.Option(help="A delta.safetensors to measure beside the model as it is.")
    ] = None,
    api_base: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint: MODEL is asked there.")
    ] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="vllm asks a saved model faster, and measures its answers alone.")
    ] = None,
) -> None:
    """Measure a model as it is, before and after a delta, or behind an API (openai:MODEL, anthropic:MODEL)."""
    _prepare(verbose=verbose)
    from pkedit.run.evaluation import evaluate

    if delta is not None:
        settings = settings.model_copy(update={"delta": str(delta)})
    if api_base is not None:
        settings = settings.model_copy(update={"api_base": api_base})
    if engine is not None:
        settings = settings.model_copy(update={"engine": engine.value})
    _watched(out, lambda observer: evaluate(settings, out, observer=observer))


@app.command("export")
def _export(
    folder: Annotated[Path, typer.Argument(help="A run folder with an edit.")],
    to: Annotated[Path, typer.Option("--to", help="Where to write; absent or empty.")],
    form: Annotated[
        ExportFormat, typer.Option("--as", help="full: a model folder that transformers loads like any other.")
    ] = ExportFormat.FULL,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Put the edit onto these weights: the full precision of what was edited."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the libraries' own messages.")] = False,
) -> None:
    """Save the edited model for use without pkedit."""
    _prepare(verbose=verbose)
    from pkedit.export.full import export_full

    export_full(folder, to, base=base, tell=typer.echo)
    typer.echo(f"{to}: {form.value} model, tokenizer and model card; load it with AutoModelForCausalLM.from_pretrained")


@app.command("table")
def _table(
    folders: Annotated[list[Path], typer.Argument(help="Run folders that were asked the same prompts.")],
) -> None:
    """Print the arms of several runs in one table: an edited model beside closed ones."""
    from pkedit.run.side_by_side import side_by_side

    side_by_side(folders, Console(width=None if sys.stdout.isatty() else 120))


@app.command("judge-agreement")
def _judge_agreement(
    file: Annotated[Path, typer.Argument(help="Labelled answers: JSONL, CSV or Parquet.")],
    judge: Annotated[
        list[str], typer.Option(help="rules, embedded, guard:MODEL or remote:MODEL; may be given several times.")
    ] = ["rules", "embedded"],  # noqa: B006
    columns: Annotated[
        str | None,
        typer.Option(help="Which column holds what: question=prompt,answer=Response,harmful=label."),
    ] = None,
    cut: Annotated[list[int] | None, typer.Option(min=1, help="Also judge answers cut to so many characters.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    api_base: Annotated[str | None, typer.Option(help="Endpoint of remote judges.")] = None,
) -> None:
    """Measure how far judges agree with people who labelled the same answers."""
    _prepare(verbose=False)
    from pkedit.run.agreement import judge_agreement

    judge_agreement(file, judge, columns=columns, cuts=cut or [], json_file=json_file, api_base=api_base)


@app.command("report")
def _report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html anew from what a run recorded."""
    from pkedit.report import build_report

    typer.echo(build_report(folder))


bench_cli.register(app, lambda verbose: _prepare(verbose=verbose))
check_cli.register(app, lambda verbose: _prepare(verbose=verbose))
safeedit_cli.register(app, lambda verbose: _prepare(verbose=verbose))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pkedit {version('pkedit')}")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. Exit codes: 0 done, 1 a check found that a run would not fit, 2 an error the user can mend, 130
    interrupted."""
    message, code = None, 2
    try:
        code = app(list(arguments) if arguments is not None else None, standalone_mode=False, prog_name="pkedit") or 0
        if code == 130:
            message = "interrupted; the same command goes on behind the last finished stage"
    except KeyboardInterrupt:
        message, code = "interrupted; the same command goes on behind the last finished stage", 130
    except ValidationError as error:
        message = _invalid_setting(error)
    except PkeditError as error:
        message = str(error)
    except MemoryError:
        message = MEMORY_ADVICE
    except OSError as error:
        message = str(error)
    except Exception as error:
        message = _known(error)
        if message is None:
            raise
    if message:
        print(f"pkedit: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _known(error: Exception) -> str | None:
    """One line for a usage error of typer or for torch's lack of memory; None for anything else, which is a bug."""
    if isinstance(error, typer.BadParameter.__mro__[1]):
        return f"{error.format_message()} (see pkedit --help)"  # type: ignore[attr-defined]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return MEMORY_ADVICE
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return MEMORY_ADVICE
    return None


def _through(settings: RunSettings, out: Path, until: Literal["locate", "edit", "measure"], *, verbose: bool) -> None:
    _prepare(verbose=verbose)
    from pkedit.run.pipeline import run

    if settings.delta is not None:
        raise PkeditError("the settings name a delta that exists already; measure it with pkedit evaluate")
    _watched(out, lambda observer: run(settings, out, until=until, observer=observer))


def _watched(out: Path, work: Callable[[Any], Any]) -> None:
    """Runs with live progress, then writes the report and prints the summary."""
    from pkedit.report import build_report
    from pkedit.run.summary import print_summary
    from pkedit.run.watching import Watcher

    console = Console(width=None if sys.stdout.isatty() else 120)
    with Watcher(console) as watcher:
        record = work(watcher)
    build_report(out)
    print_summary(console, record, out)


def _prepare(*, verbose: bool) -> None:
    """Quiets the libraries unless asked not to, and says what they keep in memory."""
    if not verbose:
        # Read when tqdm is imported; reading a GGUF file has a bar that nothing else turns off.
        os.environ.setdefault("TQDM_DISABLE", "1")
        import transformers
        from huggingface_hub.utils.tqdm import disable_progress_bars

        warnings.simplefilter("ignore")
        disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    from pkedit.models.memory import keep_few_kernels, keep_freed_memory

    keep_freed_memory()
    keep_few_kernels()


def _invalid_setting(error: ValidationError) -> str:
    """All faults of the settings in one line: which setting, what is wrong, what was given."""
    faults = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        faults.append(f"setting {place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}")
    return "; ".join(faults)


if __name__ == "__main__":
    main()
