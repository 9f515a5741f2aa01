"""`pkedit judge-agreement`: judges against human labels, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pkedit.errors import PromptFileError
from pkedit.evaluate.agreement import Agreement, measure_agreement
from pkedit.evaluate.stats import Metric
from pkedit.judges.base import Judge, Verdict
from pkedit.judges.choose import JudgeOptions, make_judges
from pkedit.judges.labelled import load_labelled
from pkedit.observer import Observer, Silent

# Answers that a judge is given at once, so that progress can be told in between; guards and remote judges work in
# smaller batches anyway.
AT_ONCE = 64


@dataclass(frozen=True)
class JudgeAgreement:
    """What was found on the labelled answers that `labels` describes, `harmful` of `answers` being harmful."""

    labels: str
    answers: int
    harmful: int
    judges: tuple[Agreement, ...]


def judge_agreement(
    file: Path,
    judges: Sequence[str],
    *,
    columns: str | None = None,
    cuts: Sequence[int] = (),
    api_base: str | None = None,
    observer: Observer | None = None,
) -> JudgeAgreement:
    """Measures each judge on whole answers and on answers cut to each of `cuts` characters.

    Args:
        file: the labelled answers.
        judges: their names.
        columns: which column holds which field.
        cuts: characters.
        api_base: the endpoint of remote judges.
        observer: told of judges and answers.

    Raises:
        PromptFileError: the file is malformed, or has no labelled answers.
        PkeditError: a judge cannot be had.
    """
    observer = observer or Silent()
    rows = load_labelled(file, columns)
    if not rows:
        raise PromptFileError(f"{file}: there are no labelled answers; give a file with at least one row")
    found = []
    chosen = make_judges(judges, JudgeOptions(api_base=api_base))
    for cut in (None, *cuts):
        for judge in chosen:
            observer.stage(f"judge {judge.name}" + ("" if cut is None else f", first {cut} characters"))
            found.append(measure_agreement(_Told(judge, len(rows), observer), rows, cut=cut))
    return JudgeAgreement(
        f"{file.name}, {len(rows)} answers", len(rows), sum(row.harmful for row in rows), tuple(found)
    )


class _Told:
    """A judge whose progress is told."""

    def __init__(self, judge: Judge, total: int, observer: Observer) -> None:
        self._judge, self._total, self._observer = judge, total, observer
        self.name, self.version = judge.name, judge.version
        self.reads_question, self.tells_refusals = judge.reads_question, judge.tells_refusals

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for start in range(0, len(answers), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            verdicts += self._judge.judge(prompts[part], answers[part], harmful_request=harmful_request)
            self._observer.step(len(verdicts), self._total)
        return verdicts


def print_agreement(found: JudgeAgreement, console: Console) -> None:
    """Prints the table and how to read it."""
    console.print(_table(found.judges))
    console.print(
        f"{found.answers} labelled answers, {found.harmful} of them harmful. Accuracy with its 95 % interval; after "
        "refusal: of the answers whose first words decline or apologise; calibration error: mean gap between "
        "P(harmful) and the share that is harmful.",
        style="dim",
        highlight=False,
    )


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
