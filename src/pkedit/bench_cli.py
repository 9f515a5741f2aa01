"""`pkedit bench` on the command line. Its help answers before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pkedit.bench.shapes import SHAPES
from pkedit.completion import list_of, models, one_of
from pkedit.options import ChatTemplate, Device, Dtype, Json, Verbose, examples, listed
from pkedit.running import watched
from pkedit.terminal import print_json, results

if TYPE_CHECKING:
    from pkedit.bench.result import BenchResult
    from pkedit.run.watching import Watcher

STAGES = ("whole", "locate", "edit", "instance", "generate", "growth")


def register(app: typer.Typer, panel: str) -> None:
    """Adds the command to `app`, under this heading of its help."""

    @app.command(
        "bench",
        rich_help_panel=panel,
        epilog=examples(
            ("pkedit bench --quick --save bench.json", "the embedded model, in a minute; figures in a file"),
            ("pkedit bench --shape llama3-8b --layers 4", "random weights at true size, nothing downloaded"),
        ),
    )
    def _bench(
        model: Annotated[
            str, typer.Argument(help="A Hub id, a model folder, a .gguf file, or smollm2.", autocompletion=models)
        ] = "smollm2",
        shape: Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help=f"A random model of a known shape instead: {', '.join(SHAPES)}.",
                autocompletion=one_of(*SHAPES),
            ),
        ] = None,
        layers: Annotated[int | None, typer.Option(min=1, help="With --shape: build only so many layers.")] = None,
        prompt_tokens: Annotated[int, typer.Option(min=8, help="With --shape: tokens of every prompt.")] = 512,
        stages: Annotated[
            str | None,
            typer.Option(
                help=f"Comma-separated: {', '.join(STAGES)}. Default: what suits.", autocompletion=list_of(*STAGES)
            ),
        ] = None,
        repeats: Annotated[
            int | None,
            typer.Option(min=1, help="Each thing and its floor so many times in turn: 3, with --quick 1."),
        ] = None,
        quick: Annotated[
            bool, typer.Option("--quick", metavar="", help="Few prompts: a minute instead of several.")
        ] = False,
        growth: Annotated[
            Path | None,
            typer.Option(metavar="FILE.svg", help="Draw there how costs grow with pairs, tokens and layers."),
        ] = None,
        save: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all figures there as well.")] = None,
        as_json: Json = False,
        verbose: Verbose = False,
        device: Device = None,
        dtype: Dtype = None,
        chat_template: ChatTemplate = None,
    ) -> None:
        """Measure locating, editing and answering on this machine, each beside the least that it could cost."""

        def work(watcher: "Watcher") -> "BenchResult":
            from pkedit.bench.command import BenchOptions, bench

            options = BenchOptions(
                model=model,
                shape=shape,
                layers=layers,
                prompt_tokens=prompt_tokens,
                stages=listed(stages) or (),
                repeats=repeats,
                quick=quick,
                device=device,
                dtype=dtype,
                chat_template=None if chat_template is None else str(chat_template),
            )
            return bench(options, json_file=save, growth_file=growth, observer=watcher)

        found = watched(work, verbose=verbose)
        if as_json:
            print_json(found.as_json())
        else:
            from pkedit.bench.printing import print_bench

            print_bench(found, results())
