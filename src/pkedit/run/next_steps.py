"""What to do next, as commands that can be pasted, by what a run has done so far. No torch."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pkedit.models.remote_endpoint import is_remote
from pkedit.run.record import RunRecord
from pkedit.run.safeedit.settings import SafeEditRecord

SHIPPED = ("safer", "safer but over-refusing")


@dataclass(frozen=True)
class Step:
    """A command, and what it is for."""

    command: str
    purpose: str


def next_steps(record: RunRecord, folder: Path, arguments: Sequence[str] = ()) -> list[Step]:
    """What a user probably wants next.

    Args:
        record: of the run.
        folder: where it is.
        arguments: of the command line that has just ended, its command first; where there are any, the same options go
            on with another command.
    """
    own = shlex.quote(str(folder))
    if not record.metrics:
        return _unfinished(record, folder, arguments)
    if "pke" not in record.metrics:
        return _without_edit(record, own)
    if record.settings.delta is not None or record.settings.adapter is not None:
        return [Step(f"pkedit table {own} OTHER", "set it beside other runs that were asked the same")]
    chat = Step(f"pkedit chat {own}", "talk to the model with and without the edit")
    export = Step(f"pkedit export {own} --as full --to PATH", "save the edited model")
    again = Step(f"pkedit tune {shlex.quote(record.settings.model)}", "search for a better trade-off")
    verdict = record.verdicts.get("pke")
    if verdict is None:
        return [chat, export]
    if verdict.outcome == "safer":
        return [chat, export]
    # What is not better than before should not be shipped: look, then search.
    return [chat, export, again] if verdict.outcome in SHIPPED else [chat, again]


def next_safeedit(record: SafeEditRecord) -> list[Step]:
    """What a user of SafeEdit's protocol probably wants next: another method on the same cases."""
    settings = record.settings
    other = "dinm" if settings.method == "pke" else "pke"
    given = ["safeedit", settings.file, "--method", other, "--model", settings.model, "--seed", str(settings.seed)]
    if settings.cases is not None:
        given += ["--cases", str(settings.cases)]
    return [Step(shlex.join(["pkedit", *given]), "the same cases with another method")]


def _unfinished(record: RunRecord, folder: Path, arguments: Sequence[str]) -> list[Step]:
    """Behind `locate` and `edit`: the same options with the next command."""
    edited = [stage for stage in record.stages if stage.startswith("edit ")]
    if not edited and "locate" not in record.stages:
        return []

    def going_on(command: str) -> str:
        if not arguments:
            return f"pkedit {command}, with the same options and --out {shlex.quote(str(folder))}"
        given = [command, *arguments[1:]]
        if not any(part == "--out" or part.startswith("--out=") for part in given):
            given += ["--out", str(folder)]
        return shlex.join(["pkedit", *given])

    steps = [] if edited else [Step(going_on("edit"), "edit this region")]
    return [*steps, Step(going_on("run"), "measure it" if edited else "edit and measure")]


def _without_edit(record: RunRecord, own: str) -> list[Step]:
    """Behind a model that was only measured, or was edited by baselines alone."""
    model = shlex.quote(record.settings.model)
    remote = is_remote(record.settings.model, record.settings.api_base)
    if remote or record.settings.engine != "transformers":
        return [Step(f"pkedit table {own} OTHER", "set it beside other runs that were asked the same")]
    if list(record.metrics) == ["vanilla"]:
        return [Step(f"pkedit run {model} --out runs/NAME", "edit it, and measure what that changes")]
    return [Step(f"pkedit run {model} --arms vanilla,random,pke --out runs/NAME", "set PKE beside them")]
