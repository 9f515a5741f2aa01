"""Measures the arms of a finished run under one condition after another; what was measured before is not again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pkedit.durability.asking import Found, ask
from pkedit.durability.conditions import CONDITIONS
from pkedit.durability.folder import DurabilityFolder, chosen_arms
from pkedit.durability.names import AS_IS, DEFAULT, NAMES
from pkedit.durability.record import Cell, DurabilityRecord, settings_for
from pkedit.durability.subject import Ground, NotMeasuredError, Subject
from pkedit.edit.delta import Delta
from pkedit.errors import PkeditError, RunFolderError
from pkedit.judges.base import Judge
from pkedit.judges.choose import JudgeOptions, check_keys, make_judges
from pkedit.models.chat import ChatModel
from pkedit.models.memory import give_back_freed_memory
from pkedit.models.remote_endpoint import is_remote
from pkedit.observer import Observer, Silent
from pkedit.run.data import read_splits
from pkedit.run.inputs import hash_inputs
from pkedit.run.left import arm_path
from pkedit.run.model import load_by
from pkedit.run.record import RunRecord

# Is told the record, the condition and the arm, and how many cells were asked for, whenever one is finished.
Told = Callable[[DurabilityRecord, str, str, int], None]


def durability(
    folder: str | Path,
    *,
    conditions: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    prompts: int | None = None,
    trust_remote_code: bool = False,
    observer: Observer | None = None,
    told: Told | None = None,
    chat: ChatModel | None = None,
) -> DurabilityRecord:
    """The durability table of a run: attack success and refusals of its arms under the conditions of `names.py`.

    The prompts are the run's first test prompts of each group. Nothing in the run's own files changes; the table goes
    into `durability.json` beside them, cell by cell, and a later call adds what is not there yet.

    Args:
        folder: of a run with an edit.
        conditions: by name, `DEFAULT` if absent.
        arms: by name; those of vanilla, dinm, random and pke that the run has if absent.
        prompts: of each of the four groups.
        trust_remote_code: whether code that the model brings with it may run; what the run was told does not count.
        observer: told of stages and steps.
        told: told of every cell.
        chat: a loaded model; loaded by the run's settings if absent. Returned unedited.

    Raises:
        RunFolderError: no run, no edit, or the table was measured with other settings.
        PkeditError: an unknown condition, or whatever loading and judging raise.
    """
    folder, observer = Path(folder), observer or Silent()
    names = chosen_conditions(conditions)
    run = RunRecord.load(folder)
    _check_run(folder, run)
    wanted = chosen_arms(folder, arms)
    settings = settings_for(run.settings, prompts=prompts)
    with DurabilityFolder.open(folder, run, settings, wanted) as kept:
        waiting = [(name, arm) for name in names for arm in wanted if kept.cell(name, arm) is None]
        if not waiting:
            return kept.record
        judges = _judges(run)
        own = run.settings.model_copy(update={"trust_remote_code": trust_remote_code})
        splits = read_splits(own)
        if chat is None:
            observer.stage("load")
            chat = load_by(own)
        deltas = {
            arm: None if arm == "vanilla" else Delta.load(folder / arm_path(arm, "delta.safetensors")) for arm in wanted
        }
        for delta in deltas.values():
            if delta is not None:
                delta.check(chat)
        ground = Ground(chat, splits, own, settings, observer)
        for name, arm in waiting:
            observer.stage(f"measure {arm}, {NAMES[name].label}")
            cell, found = _cell(Subject(ground, deltas[arm]), name, arm, judges, kept.cell(AS_IS, arm))
            kept.keep(name, arm, cell, () if found is None else found.responses)
            give_back_freed_memory()
            if told is not None:
                told(kept.record, name, arm, len(names) * len(wanted))
        return kept.record


def chosen_conditions(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The conditions to measure, in the order of the table.

    Raises:
        PkeditError: there is none of that name.
    """
    if asked is None:
        return DEFAULT
    unknown = [name for name in asked if name not in NAMES]
    if unknown:
        raise PkeditError(f"no condition is called {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in asked)


def _cell(
    subject: Subject, name: str, arm: str, judges: Sequence[Judge], as_is: Cell | None
) -> tuple[Cell, Found | None]:
    """One arm under one condition, with its answers; none where it could not be measured or need not be asked."""
    started = time.perf_counter()

    def seconds() -> float:
        return max(0.0, round(time.perf_counter() - started, 2))

    try:
        with CONDITIONS[name](subject) as asked:
            preparing = seconds()
            if asked.same_as_is and as_is is not None:
                note = f"{asked.note}, so its answers are those of {NAMES[AS_IS].label}"
                return as_is.model_copy(update={"note": note, "seconds": seconds(), "preparing": preparing}), None
            found = ask(asked, subject.ground, judges, arm=arm)
            note = asked.note
    except NotMeasuredError as reason:
        return Cell(seconds=seconds(), note=f"not measured: {reason}"), None
    return Cell(
        metrics=found.metrics,
        unjudged=found.unjudged,
        seconds=seconds(),
        preparing=preparing,
        simulated=asked.simulated,
        note=note,
    ), found


def _check_run(folder: Path, run: RunRecord) -> None:
    settings = run.settings
    if is_remote(settings.model, settings.api_base) or settings.engine != "transformers":
        raise RunFolderError(f"{folder}: a run without weights at hand; durability needs a model that pkedit loads")
    if settings.adapter is not None:
        raise RunFolderError(f"{folder}: the edit is an adapter of another's; durability needs a delta")
    changed = [name for name, digest in hash_inputs(settings).items() if run.inputs.get(name, digest) != digest]
    if changed:
        files = ", ".join(str(getattr(settings, name)) for name in changed)
        raise RunFolderError(f"{folder} was made with other content of {files}; put that back, or run again")


def _judges(run: RunRecord) -> list[Judge]:
    settings = run.settings
    names = settings.evaluate.judges
    check_keys(names, api_base=settings.judge_api_base)
    options = JudgeOptions(settings.judge_api_base, settings.concurrency, settings.temperature, settings.device)
    judges = make_judges(names, options)
    if not any(judge.tells_refusals for judge in judges):
        raise PkeditError(f"over-refusal cannot be measured: {', '.join(names)} cannot say what a refusal is")
    return judges
