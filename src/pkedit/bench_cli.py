"""`pkedit bench` on the command line. Its help answers before torch is imported."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pkedit.bench.shapes import SHAPES


def register(app: typer.Typer, prepare: Callable[[bool], None]) -> None:
    """Adds the command to `app`. `prepare` is called first, with whether the libraries may speak."""

    @app.command("bench")
    def _bench(
        model: Annotated[str, typer.Argument(help="A Hub id, a model folder, a .gguf file, or smollm2.")] = "smollm2",
        shape: Annotated[
            str | None,
            typer.Option(metavar="NAME", help=f"A random model of a known shape instead: {', '.join(SHAPES)}."),
        ] = None,
        layers: Annotated[int | None, typer.Option(min=1, help="With --shape: build only so many layers.")] = None,
        prompt_tokens: Annotated[int, typer.Option(min=8, help="With --shape: tokens of every prompt.")] = 512,
        stages: Annotated[
            str | None,
            typer.Option(help="Comma-separated: whole, locate, edit, instance, generate, growth. Default: what suits."),
        ] = None,
        repeats: Annotated[
            int | None,
            typer.Option(min=1, help="Each thing and its floor so many times in turn: 3, with --quick 1."),
        ] = None,
        quick: Annotated[bool, typer.Option("--quick", help="Few prompts: a minute instead of several.")] = False,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there as well.")] = None,
        growth: Annotated[
            Path | None,
            typer.Option(metavar="FILE.svg", help="Draw there how costs grow with pairs, tokens and layers."),
        ] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto; the best one by default.")] = None,
        dtype: Annotated[
            str | None, typer.Option(help="float32, bfloat16 or float16; chosen by device otherwise.")
        ] = None,
        chat_template: Annotated[
            Path | None, typer.Option(help="Jinja file, for a chat model whose tokenizer has no template.")
        ] = None,
        verbose: Annotated[bool, typer.Option("--verbose", help="Show the libraries' own messages.")] = False,
    ) -> None:
        """Measure locating, editing and answering on this machine, each beside the least that it could cost."""
        prepare(verbose)
        from pkedit.bench.command import BenchOptions, bench
        from pkedit.bench.printing import print_bench
        from pkedit.run.watching import Watcher

        options = BenchOptions(
            model=model,
            shape=shape,
            layers=layers,
            prompt_tokens=prompt_tokens,
            stages=() if stages is None else tuple(name.strip() for name in stages.split(",") if name.strip()),
            repeats=repeats,
            quick=quick,
            device=device,
            dtype=dtype,
            chat_template=None if chat_template is None else str(chat_template),
        )
        console = Console(width=None if sys.stdout.isatty() else 120)
        with Watcher(console) as watcher:
            result = bench(options, json_file=json_file, growth_file=growth, observer=watcher)
        print_bench(result, console)
