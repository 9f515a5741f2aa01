"""The options that runs, `check` and `tune` share, listed once, and how they become settings."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from pkedit.completion import DEVICES, DTYPES, JUDGES, list_of, models, one_of, presets
from pkedit.errors import PkeditError

if TYPE_CHECKING:
    from pkedit.settings import RunSettings

SOURCE = "FILE|PRESET"
# The arms of `settings.ARMS`, which help and completion do not wait for.
ARMS = ("vanilla", "suffix", "dinm", "ft", "random", "pke")
# Headings in the help, so that the few options that most people need come first.
EDIT, PROMPTS, MEASURING, MODEL = "The edit", "Prompts", "Measuring", "Model and device"

Json = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON document instead of tables; keep it with > FILE.")
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", metavar="", help="Agree beforehand to what would be asked (for scripts).")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", metavar="", help="Show the libraries' own messages, and tracebacks of faults.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1 or auto; the best one by default.",
        autocompletion=one_of(*DEVICES),
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16; chosen by device otherwise.",
        autocompletion=one_of(*DTYPES),
        rich_help_panel=MODEL,
    ),
]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(help="Jinja file, for a chat model whose tokenizer has no template.", rich_help_panel=MODEL),
]
MlpWrite = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The MLP's write matrix in a decoder layer, for an unknown architecture.",
        rich_help_panel=MODEL,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        metavar="",
        help="Let the model run Python code from its repository on this machine.",
        rich_help_panel=MODEL,
    ),
]
LoadIn = Annotated[
    str | None,
    typer.Option(
        metavar="4bit|8bit",
        help="Quantise the model at load (bitsandbytes); the edit acts beside it.",
        autocompletion=one_of("4bit", "8bit"),
        rich_help_panel=MODEL,
    ),
]
Judges = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: rules, embedded, guard:MODEL, remote:MODEL. The first counts most.",
        autocompletion=list_of(*JUDGES),
        rich_help_panel=MEASURING,
    ),
]
JudgeApiBase = Annotated[
    str | None,
    typer.Option(metavar="URL", help="OpenAI-compatible endpoint of remote judges.", rich_help_panel=MEASURING),
]


def _source(kind: str, text: str) -> Any:
    return typer.Option(metavar=SOURCE, help=text, autocompletion=presets(kind), rich_help_panel=PROMPTS)


def run_settings(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A Hub id, a model folder, a .gguf file, or smollm2 (the embedded default).", autocompletion=models
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON settings, whole or in part; other options override them.")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: vanilla, suffix, dinm, ft, random, pke. Default: vanilla,pke.",
            autocompletion=list_of(*ARMS),
        ),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Contrast pairs that the edit learns from.", rich_help_panel=EDIT)
    ] = None,
    demonstrations: Annotated[
        int | None, typer.Option(help="Harmless answers that the edit must keep.", rich_help_panel=EDIT)
    ] = None,
    neurons: Annotated[int | None, typer.Option(help="Neurons to edit.", rich_help_panel=EDIT)] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST-LAST",
            help="Layers to choose from, as shares of the depth: 0.25-0.9.",
            rich_help_panel=EDIT,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the edit.", rich_help_panel=EDIT)] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate, relative to the size of each edited vector.", rich_help_panel=EDIT),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the splits, the random regions and the edit.", rich_help_panel=EDIT)
    ] = None,
    dinm_as_released: Annotated[
        bool,
        typer.Option(
            "--dinm-as-released",
            metavar="",
            help="Run the DINM arm as its released code does, mistakes included.",
            rich_help_panel=EDIT,
        ),
    ] = False,
    equal_success: Annotated[
        bool,
        typer.Option(
            "--equal-success",
            metavar="",
            help="Scale the edits of DINM and FT until few held-out prompts get a harmful answer, as PKE's are.",
            rich_help_panel=EDIT,
        ),
    ] = False,
    harmful: Annotated[
        str | None, _source("harmful", "Harmful questions instead of ours: JSONL, CSV, Parquet or preset.")
    ] = None,
    harmless: Annotated[str | None, _source("harmless", "Everyday prompts instead of ours.")] = None,
    borderline: Annotated[
        str | None, _source("borderline", "Safe prompts that look dangerous instead of ours.")
    ] = None,
    attacks: Annotated[str | None, _source("attacks", "Attack templates with {question} instead of ours.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:FIELD=COLUMN,…",
            help="Columns of such a file: harmful:text=goal,category=kind.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    judges: Judges = None,
    judge_api_base: JudgeApiBase = None,
    win_rate_judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Remote model that compares harmless answers: openai:MODEL.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated lm-evaluation-harness tasks; everyday by default, none to leave it out.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Measured answers are cut after so many tokens.", rich_help_panel=MEASURING)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    chat_template: ChatTemplate = None,
    mlp_write: MlpWrite = None,
    trust_remote_code: TrustRemoteCode = False,
    load_in: LoadIn = None,
) -> "RunSettings":
    """The settings: the defaults, then the settings file, then the options. Also where the shared options are listed.

    Raises:
        PkeditError: the settings file cannot be read, or `--layers` is not two numbers.
        ValidationError: a setting is unknown or out of its range.
    """
    from pkedit.settings import RunSettings

    content = {} if settings is None else _read_settings(settings)
    first, last = (None, None) if layers is None else _layer_shares(layers)
    given: dict[tuple[str, ...], Any] = {
        ("model",): model,
        ("arms",): listed(arms),
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
        ("equal_success",): equal_success or None,
        ("harmful",): harmful,
        ("harmless",): harmless,
        ("borderline",): borderline,
        ("attacks",): attacks,
        ("columns",): None if columns is None else _columns(columns),
        ("evaluate", "judges"): listed(judges),
        ("evaluate", "capability"): () if tasks == "none" else listed(tasks),
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
                    raise PkeditError(f"setting {name}: got {target!r}; give an object of settings")
            target[place[-1]] = value
    return RunSettings.model_validate(content)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `run_settings`, `--out`, and of `--json`, `--yes`, `--verbose` those it asks for.

    The command itself receives `settings` and `out`; those of `as_json`, `yes` and `verbose` that its parameters name
    without saying what they are; `arguments`, the whole command line, if it names that; and its own options.
    """

    def common(
        out: Annotated[Path, typer.Option(help="The run folder; an interrupted run resumes there.")] = Path(
            "runs/default"
        ),
        as_json: Json = False,
        yes: Yes = False,
        verbose: Verbose = False,
    ) -> None: ...

    shared = inspect.signature(run_settings).parameters
    asked = inspect.signature(command).parameters
    own = {name: one for name, one in asked.items() if name != "settings" and get_origin(one.annotation) is Annotated}
    options = [
        one
        for name, one in inspect.signature(common).parameters.items()
        if name == "out" or (name in asked and name not in own)
    ]
    argument, *others = [shared["model"], shared["settings"], shared["arms"]]
    rest = [one for name, one in shared.items() if name not in ("model", "settings", "arms")]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, argument, *others, *options, *own.values(), *rest]

    def wrapper(context: typer.Context, **values: Any) -> None:
        settings = run_settings(**{name: values.pop(name) for name in shared})
        if "arguments" in asked:
            values["arguments"] = tuple(context.obj or ())
        command(settings=settings, **values)

    wrapper.__doc__ = command.__doc__
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def examples(*pairs: tuple[str, str]) -> str:
    """The end of a command's help: commands, each with what it does."""
    lines = (f"[bold]{command}[/]\n  [dim]{purpose}[/]" for command, purpose in pairs)
    return "Examples:\n\n" + "\n".join(lines)


def listed(text: str | None) -> tuple[str, ...] | None:
    """What stands between commas; None of None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PkeditError(f"{path}: no such settings file; check --settings") from None
    except (OSError, ValueError) as error:
        raise PkeditError(f"{path}: not a JSON file of settings ({error}); mend it or leave --settings out") from None
    if not isinstance(content, dict):
        raise PkeditError(f'{path}: holds no JSON object; write settings as {{"pairs": 200}}')
    return content


def _columns(texts: Sequence[str]) -> dict[str, str]:
    """`harmful:text=goal` → the mapping of each kind."""
    found: dict[str, str] = {}
    for text in texts:
        kind, colon, mapping = text.partition(":")
        if not colon or kind in found:
            raise PkeditError(f"--columns {text}: write KIND:FIELD=COLUMN,…, once for each kind of prompts")
        found[kind.strip()] = mapping
    return found


def _layer_shares(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split("-"))
    except ValueError:
        raise PkeditError(f"--layers {text}: write two shares of the depth such as 0.25-0.9") from None
    return first, last
