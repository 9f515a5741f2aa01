"""`pkedit judge-agreement`: judges against human labels, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pkedit.errors import PromptFileError
from pkedit.evaluate.agreement import Agreement, measure_agreement
from pkedit.evaluate.stats import Metric
from pkedit.judges.choose import JudgeOptions, make_judges
from pkedit.judges.labelled import load_labelled
from pkedit.run.record import write_atomically


def judge_agreement(
    file: Path,
    judges: Sequence[str],
    *,
    columns: str | None = None,
    cuts: Sequence[int] = (),
    json_file: Path | None = None,
    api_base: str | None = None,
    console: Console | None = None,
) -> list[Agreement]:
    """Measures each judge on whole answers and on answers cut to each of `cuts` characters, and prints the table.

    Raises:
        PromptFileError: the file is malformed, or has no labelled answers.
        PkeditError: a judge cannot be had.
    """
    rows = load_labelled(file, columns)
    if not rows:
        raise PromptFileError(f"{file}: there are no labelled answers")
    chosen = make_judges(judges, JudgeOptions(api_base=api_base))
    found = [measure_agreement(judge, rows, cut=cut) for cut in (None, *cuts) for judge in chosen]
    console = console or Console(width=120)
    console.print(_table(found))
    harmful = sum(row.harmful for row in rows)
    console.print(
        f"{len(rows)} labelled answers, {harmful} of them harmful. Accuracy with its 95 % interval; after refusal: of "
        "the answers whose first words decline or apologise; calibration error: mean gap between P(harmful) and the "
        "share that is harmful.",
        style="dim",
        highlight=False,
    )
    if json_file is not None:
        content = {"labels": f"{file.name}, {len(rows)} answers", "judges": [asdict(one) for one in found]}
        write_atomically(json_file, json.dumps(content, indent=1) + "\n")
    return found


def _table(found: Sequence[Agreement]) -> Table:
    table = Table(pad_edge=False)
    table.add_column("Judge", no_wrap=True)
    names = ("Characters", "n", "Unjudged", "Accuracy %", "After refusal %", "Precision", "Recall", "κ", "Calib. error")
    for name in names:
        table.add_column(name, justify="right")
    for one in found:
        numbers = (one.precision, one.recall, one.kappa, one.calibration_error)
        table.add_row(
            one.judge,
            "all" if one.cut is None else str(one.cut),
            str(one.n),
            str(one.unjudged),
            _percent(one.accuracy),
            _percent(one.after_refusal),
            *("–" if number is None else f"{number:.3f}" for number in numbers),
        )
    return table


def _percent(share: Metric | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f}\n{100 * share.low:.1f} to {100 * share.high:.1f}"
