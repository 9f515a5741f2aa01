"""The options that `run`, `locate`, `edit` and `evaluate` share, listed once, and how they become settings."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pkedit.errors import PkeditError
from pkedit.settings import RunSettings

SOURCE = "FILE|PRESET"


def run_settings(
    model: Annotated[
        str | None, typer.Argument(help="A Hub id, a model folder, a .gguf file, or smollm2 (the embedded default).")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="JSON file of settings, whole or in part; other options override it.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Comma-separated: vanilla, suffix, dinm, ft, random, pke. Default: vanilla,pke.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Contrast pairs that the edit learns from.")] = None,
    demonstrations: Annotated[int | None, typer.Option(help="Harmless answers that the edit must keep.")] = None,
    neurons: Annotated[int | None, typer.Option(help="Neurons to edit.")] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Layers to choose from, as shares of the depth: 0.25-0.9.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the edit.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate, relative to the size of each edited vector.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the splits, the random regions and the edit.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Measured answers are cut after so many tokens.")] = None,
    harmful: Annotated[
        str | None,
        typer.Option(metavar=SOURCE, help="Harmful questions instead of ours: JSONL, CSV, Parquet or preset."),
    ] = None,
    harmless: Annotated[str | None, typer.Option(metavar=SOURCE, help="Everyday prompts instead of ours.")] = None,
    borderline: Annotated[
        str | None, typer.Option(metavar=SOURCE, help="Safe prompts that look dangerous instead of ours.")
    ] = None,
    attacks: Annotated[
        str | None, typer.Option(metavar=SOURCE, help="Attack templates with {question} instead of ours.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:FIELD=COLUMN,…", help="Columns of such a file: harmful:text=goal,category=kind."),
    ] = None,
    judges: Annotated[
        str | None, typer.Option(help="Comma-separated: rules, embedded, guard:MODEL, remote:MODEL. First counts most.")
    ] = None,
    judge_api_base: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint of remote judges.")
    ] = None,
    win_rate_judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Remote model that compares harmless answers: openai:MODEL.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Comma-separated lm-evaluation-harness tasks; everyday by default, none to leave it out."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto; the best one by default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen by device otherwise.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file, for a chat model whose tokenizer has no template.")
    ] = None,
    mlp_write: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The MLP's write matrix in a decoder layer, for an unknown architecture."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Let the model run Python code from its repository on this machine."),
    ] = False,
    load_in: Annotated[
        str | None,
        typer.Option(metavar="4bit|8bit", help="Quantise the model at load (bitsandbytes); the edit acts beside it."),
    ] = None,
    dinm_as_released: Annotated[
        bool, typer.Option("--dinm-as-released", help="Run the DINM arm as its released code does, mistakes included.")
    ] = False,
) -> RunSettings:
    """The settings: the defaults, then the settings file, then the options. Also where the shared options are listed.

    Raises:
        PkeditError: the settings file cannot be read, or `--layers` is not two numbers.
        ValidationError: a setting is unknown or out of its range.
    """
    content = {} if settings is None else _read_settings(settings)
    first, last = (None, None) if layers is None else _layer_shares(layers)
    given: dict[tuple[str, ...], Any] = {
        ("model",): model,
        ("arms",): _listed(arms),
        ("pairs",): pairs,
        ("demonstrations",): demonstrations,
        ("locate", "neurons"): neurons,
        ("locate", "first_layer"): first,
        ("locate", "last_layer"): last,
        ("edit", "steps"): steps,
        ("edit", "learning_rate"): learning_rate,
        ("seed",): seed,
        ("edit", "seed"): seed,
        ("evaluate", "max_new_tokens"): max_new_tokens,
        ("dinm_as_released",): dinm_as_released or None,
        ("harmful",): harmful,
        ("harmless",): harmless,
        ("borderline",): borderline,
        ("attacks",): attacks,
        ("columns",): None if columns is None else _columns(columns),
        ("evaluate", "judges"): _listed(judges),
        ("evaluate", "capability"): () if tasks == "none" else _listed(tasks),
        ("evaluate", "win_rate_judge"): win_rate_judge,
        ("judge_api_base",): judge_api_base,
        ("chat_template",): None if chat_template is None else str(chat_template),
        ("mlp_write",): mlp_write,
        ("trust_remote_code",): trust_remote_code or None,
        ("quantisation",): load_in,
        ("device",): device,
        ("dtype",): dtype,
    }
    for place, value in given.items():
        if value is not None:
            target = content
            for name in place[:-1]:
                target = target.setdefault(name, {})
                if not isinstance(target, dict):
                    raise PkeditError(f"setting {name}: expected an object of settings, got {target!r}")
            target[place[-1]] = value
    return RunSettings.model_validate(content)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `run_settings`, `--out` and `--verbose`.

    The command itself receives `settings`, `out`, `verbose` and its own options.
    """

    def common(
        out: Annotated[Path, typer.Option(help="The run folder; an interrupted run resumes there.")] = Path(
            "runs/default"
        ),
        verbose: Annotated[bool, typer.Option("--verbose", help="Show the libraries' own messages.")] = False,
    ) -> None: ...

    shared = inspect.signature(run_settings).parameters
    own = [
        parameter
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in ("settings", "out", "verbose")
    ]
    *options, argument = [
        *inspect.signature(common).parameters.values(),
        *own,
        *list(shared.values())[1:],
        shared["model"],
    ]

    def wrapper(**values: Any) -> None:
        settings = run_settings(**{name: values.pop(name) for name in shared})
        command(settings=settings, **values)

    parameters = [argument, *options]
    wrapper.__doc__ = command.__doc__
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PkeditError(f"{path}: no such settings file") from None
    except (OSError, ValueError) as error:
        raise PkeditError(f"{path}: not a JSON file of settings ({error})") from None
    if not isinstance(content, dict):
        raise PkeditError(f"{path}: expected a JSON object of settings")
    return content


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _columns(texts: Sequence[str]) -> dict[str, str]:
    """`harmful:text=goal` → the mapping of each kind."""
    found: dict[str, str] = {}
    for text in texts:
        kind, colon, mapping = text.partition(":")
        if not colon or kind in found:
            raise PkeditError(f"--columns {text}: expected KIND:FIELD=COLUMN,…, once for each kind of prompts")
        found[kind.strip()] = mapping
    return found


def _layer_shares(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split("-"))
    except ValueError:
        raise PkeditError(f"--layers {text}: expected two shares of the depth such as 0.25-0.9") from None
    return first, last
