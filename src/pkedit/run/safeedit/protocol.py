"""SafeEdit's protocol, case after case: locate, edit on that one instance, ask, judge, revert, next.

Source: Wang et al. 2024, arXiv 2403.14472, sections 5.1 and 5.2. A run that was killed goes on behind its last finished
case. Other than in EasyEdit, the layer is located anew for each case, no suffix is put into any prompt, answers are
always greedy, and each refusal of a harmless knowledge prompt is counted beside the defence.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pkedit.edit.instance import InstanceEditor
from pkedit.errors import NonFiniteLossError
from pkedit.judges.base import Judge
from pkedit.judges.choose import JudgeOptions, check_keys, make_judges
from pkedit.models.chat import ChatModel
from pkedit.models.memory import give_back_freed_memory
from pkedit.observer import Observer, Silent
from pkedit.prompts import PRESETS, Demonstration, SafeEditCase, load_safeedit
from pkedit.prompts.fetching import fetch
from pkedit.run.model import load_by
from pkedit.run.safeedit.case import edit_case, measure_case, sample_kept
from pkedit.run.safeedit.folder import CASES, RECORD, CaseRow, SafeEditFolder
from pkedit.run.safeedit.settings import SafeEditRecord, SafeEditSettings
from pkedit.run.safeedit.table import averages, recorded, safeedit_table, sentences, unjudged

PRESET = "safeedit"


def run_safeedit(
    settings: SafeEditSettings,
    out: str | Path,
    *,
    observer: Observer | None = None,
    chat: ChatModel | None = None,
    judges: Sequence[Judge] | None = None,
) -> SafeEditRecord:
    """Runs, or resumes, the protocol over the cases of a file, and returns the record with its averages.

    Args:
        settings: what to do.
        out: the run folder; afterwards it holds `safeedit.json` and `cases.jsonl`.
        observer: told of every case.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.
        judges: made by the settings if absent.

    Raises:
        PkeditError: whatever the user can mend; see `pkedit.errors`.
    """
    observer = observer or Silent()
    source = source_of(settings.file)
    cases = load_safeedit(source)
    with SafeEditFolder.open(out, settings, source, len(cases)) as folder:
        return _through(folder, cases, settings, observer, chat, judges)


def _through(
    folder: SafeEditFolder,
    cases: Sequence[SafeEditCase],
    settings: SafeEditSettings,
    observer: Observer,
    chat: ChatModel | None,
    judges: Sequence[Judge] | None,
) -> SafeEditRecord:
    drawn = draw(cases, settings)
    waiting = [case for case in drawn if case.id not in folder.rows]
    if waiting:
        # A judge that cannot be had is found before the model is loaded.
        if judges is None:
            judges = make_judges(
                settings.judges, JudgeOptions(api_base=settings.judge_api_base, device=settings.device)
            )
            check_keys(settings.judges, api_base=settings.judge_api_base)
        if chat is None:
            observer.stage("load")
            chat = load_by(settings)
        folder.record.model_note = chat.reason
        kept: list[Demonstration] = []
        if settings.method == "pke":
            observer.stage("sample")
            kept = sample_kept(chat, settings)
            folder.record.kept_prompts = [one.prompt.id for one in kept]
        editor = InstanceEditor(chat, kept) if settings.fast else None
        observer.stage(f"edit {settings.method}, case by case" if settings.method != "vanilla" else "measure vanilla")
        for done, case in enumerate(waiting, start=len(drawn) - len(waiting)):
            observer.step(done, len(drawn), f"case {case.id}")
            folder.append(_do(chat, case, kept, judges, settings, editor))
            give_back_freed_memory()
        observer.step(len(drawn), len(drawn))
    _summarise(folder, [case.id for case in drawn])
    return folder.record


def print_safeedit(record: SafeEditRecord, out: str | Path, console: Console) -> None:
    """Prints the table, what has to be known to read it, and where everything is."""
    console.print(safeedit_table(record))
    for sentence in sentences(record):
        console.print(sentence, style="dim", highlight=False, markup=False)
    console.print(f"{Path(out) / RECORD}  settings, versions, averages", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{Path(out) / CASES}  every answer and verdict", highlight=False, markup=False, soft_wrap=True)


def draw(cases: Sequence[SafeEditCase], settings: SafeEditSettings) -> list[SafeEditCase]:
    """The cases of this run. A larger number holds those of a smaller one, so a run can be extended."""
    order = list(cases)
    random.Random(settings.seed).shuffle(order)
    return order[: settings.cases]


def _do(
    chat: ChatModel,
    case: SafeEditCase,
    kept: Sequence[Demonstration],
    judges: Sequence[Judge],
    settings: SafeEditSettings,
    editor: InstanceEditor | None,
) -> CaseRow:
    """One case from beginning to end; the model is then again what it was, bit for bit."""
    if settings.method == "vanilla":
        responses = measure_case(chat, case, judges, settings, arm="vanilla")
        return CaseRow(case.id, case.category, tuple(responses))
    try:
        edited = edit_case(chat, case, settings, kept, editor)
    except NonFiniteLossError as error:
        # It would diverge again: recorded and counted, so that one case does not stop all others.
        return CaseRow(case.id, case.category, failed=f"the {error.term} loss was NaN or Inf at step {error.step}")
    before = measure_case(chat, case, judges, settings, arm="vanilla") if settings.vanilla else []
    with edited.delta.applied_to(chat):
        after = measure_case(chat, case, judges, settings, arm=settings.method)
    return CaseRow(
        case.id,
        case.category,
        (*before, *after),
        seconds=round(edited.seconds, 3),
        layers=edited.layers,
        steps=edited.steps,
    )


def _summarise(folder: SafeEditFolder, ids: Sequence[str]) -> None:
    """Averages over the cases asked for, into the record."""
    rows, record = folder.rows_of(ids), folder.record
    settings = record.settings
    arms = [settings.method]
    if settings.vanilla and settings.method != "vanilla":
        arms.insert(0, "vanilla")
    record.finished = len(rows)
    record.failed = [row.case for row in rows if row.failed is not None]
    record.metrics = {arm: recorded(averages(rows, arm)) for arm in arms}
    record.unjudged = {arm: unjudged(rows, arm) for arm in arms}
    record.notes = _notes(record)
    folder.save()


def _notes(record: SafeEditRecord) -> list[str]:
    """How this run differs from the published one, for whoever puts the tables side by side."""
    settings = record.settings
    notes = [
        "SafeEdit's own figures are of answers of up to 600 tokens, judged by its classifier; DINM's have a refusal "
        "suffix in every prompt, which is not used here."
    ]
    if settings.method == "pke":
        own = "" if settings.fast else "each case's own harmless answer and "
        notes.append(
            f"PKE keeps {own}those to the same {len(record.kept_prompts)} built-in harmless and borderline prompts; no "
            "harmful prompt beside the case's own is used."
        )
    return notes


def source_of(file: str) -> Path:
    """Where the cases are: the file named, or the published test cases. A name goes before a file of the same name."""
    return fetch(PRESET, PRESETS[PRESET].file) if file == PRESET else Path(file)
