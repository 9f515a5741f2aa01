"""A stream in the terminal: a line for each measurement as it comes, and at the end a table of all. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pkedit.evaluate.stats import proportion
from pkedit.run.record import RecordedMetric
from pkedit.run.wording import interval, metric_text, with_interval
from pkedit.stream.record import Measured, StreamRecord

FIXED = "fixed"
# Shown as a metric of runs that is a share as well.
SHARE = "over_refusal"
RATES = ("asr", "asr_bare", "over_refusal", "borderline_refusal")
LABELS = {FIXED: "Fixes held %"} | {name: metric_text(name).label for name in (*RATES, "kl")}
# Ages of edits that are told together: so many edits were made after them.
AGES = ((0, 9), (10, 24), (25, 49), (50, 99), (100, None))


def stream_table(record: StreamRecord) -> Table:
    """A row for each measurement: its figures with their intervals."""
    table = Table(pad_edge=False)
    table.add_column("Edits", no_wrap=True)
    for name, label in LABELS.items():
        table.add_column(f"{label} {'↑' if name == FIXED else '↓'}", justify="right")
    for one in record.measured:
        table.add_row(_state(one), *(_cell(name, one.metrics) for name in LABELS))
    return table


def measured_line(record: StreamRecord, measured: Measured) -> str:
    """A measurement in one line, and about how long the rest will take."""
    parts = [_phrase(name, measured.metrics[name]) for name in LABELS if name in measured.metrics]
    left = minutes_left(record)
    rest = "" if left is None else f"; about {left:.0f} min left" if left >= 1 else "; less than a minute left"
    return f"after {_state(measured)} edits: {'; '.join(parts)}{rest}"


def minutes_left(record: StreamRecord) -> float | None:
    """What the edits and measurements to come will take, by the mean of those made.

    None where nothing is left, or no edit was made yet.
    """
    done, settings = len(record.edits), record.settings
    waiting = settings.edits - done
    if record.exhausted or waiting < 1 or not done:
        return None
    edits = sum(one.seconds for one in record.edits) / done * waiting
    asked = sum(4 * settings.prompts + len(one.held) + len(one.lost) for one in record.measured)
    each = sum(one.seconds for one in record.measured) / max(asked, 1)
    later = {*range((done // settings.every + 1) * settings.every, settings.edits, settings.every), settings.edits}
    return float(edits + each * sum(4 * settings.prompts + number for number in later)) / 60


def by_age(measured: Measured) -> dict[str, RecordedMetric]:
    """The share of fixes that hold, by how many edits were made after them; those that are out are left out."""
    found = {}
    for youngest, oldest in AGES:
        own = {
            number: number in measured.held
            for number in (*measured.held, *measured.lost)
            if number not in measured.without
            and youngest <= measured.edits - number <= (measured.edits if oldest is None else oldest)
        }
        if own:
            share = proportion(sum(own.values()), len(own))
            label = f"{youngest} or more" if oldest is None else f"{youngest} to {oldest}"
            found[label] = RecordedMetric(value=share.value, n=share.n, low=share.low, high=share.high)
    return found


def sentences(record: StreamRecord) -> list[str]:
    """What has to be known to read the table, and what it does not show."""
    settings, last = record.settings, record.measured[-1]
    unseen = ", ".join(str(last.metrics[name].n) for name in RATES if name in last.metrics)
    said = [
        f"Value and 95 % interval. Fixes held: edited prompts still refused, n = edits in the model. Unseen prompts of "
        f"the test split: n = {unseen}; KL on {settings.drift} harmless answers. By the judge {settings.judges[0]}."
    ]
    final = record.found(len(record.edits), record.without)
    if final is not None and record.edits:
        ages = "; ".join(f"{label} edits ago {with_interval(SHARE, one)}" for label, one in by_age(final).items())
        said.append(f"Fixes that hold at the end, by age: {ages}.")
    if record.edits:
        said.append(_effort(record))
    if record.without:
        said.append(_taken_out(record, final))
    if record.exhausted and len(record.edits) < settings.edits:
        said.append(
            f"There were {len(record.edits)} edits and not {settings.edits}: behind them no prompt fails any more."
        )
    if record.diverged:
        names = ", ".join(one.prompt_id for one in record.diverged)
        said.append(f"Left unedited, because the edit diverged: {names}.")
    if record.left_out:
        said.append(f"{record.left_out} test questions are not measured, for they are among the edited file's.")
    return said


def print_stream(record: StreamRecord, out: Path, console: Console) -> None:
    """Prints the table, what has to be known to read it, and where everything is."""
    console.print(stream_table(record))
    for sentence in sentences(record):
        console.print(sentence, style="dim", highlight=False, markup=False)
    files = {
        "delta.safetensors": "the sum of the edits that are in the model",
        "edits": "each edit's own delta",
        "index.json": "settings, edits, figures",
        "stream.svg": "KL and rates against the number of edits",
    }
    for name, purpose in files.items():
        console.print(f"{out / name}  {purpose}", highlight=False, markup=False, soft_wrap=True)


def _phrase(name: str, metric: RecordedMetric) -> str:
    label = LABELS[name].removesuffix(" %").removesuffix(" nats")
    return f"{label} {with_interval(SHARE if name == FIXED else name, metric)}"


def _cell(name: str, metrics: Mapping[str, RecordedMetric]) -> str:
    if name not in metrics:
        return "–"
    shown = SHARE if name == FIXED else name
    return f"{metric_text(shown).number(metrics[name].value)}\n{interval(shown, metrics[name])}"


def _state(measured: Measured) -> str:
    if not measured.without:
        return str(measured.edits)
    return f"{measured.edits} without {_listed(measured.without)}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 6 else f"{len(numbers)} of them"


def _effort(record: StreamRecord) -> str:
    edits = record.edits
    passed = sum(one.passed_over for one in edits)
    unmet = sum(not one.met for one in edits)
    mean = sum(one.seconds for one in edits) / len(edits)
    measuring = sum(one.seconds for one in record.measured)
    return (
        f"{len(edits)} edits, {mean:.1f} s each with finding the next failure ({passed} prompts passed over); "
        f"measuring {measuring / 60:.1f} min; {unmet} edits ended at the last step. Mean "
        f"strength {sum(one.strength for one in edits) / len(edits):.2f} of what was learnt; largest change of a "
        f"vector {max(one.largest for one in edits):.1f} times its length."
    )


def _taken_out(record: StreamRecord, final: Measured | None) -> str:
    said = f"Out of the model: {_listed(record.without)}; it is the base with the other edits, bit for bit"
    if final is not None:
        refused = [number for number in record.without if number in final.held]
        said += f"; of their prompts {len(refused)} of {len(record.without)} are refused all the same"
    return f"{said}."
