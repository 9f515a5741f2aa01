"""What was measured of one arm, on disk: its answers with their verdicts, its metrics and its drift; and the means of
neurons on harmless prompts, which the causal check needs after a kill behind locating."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pkedit.edit.tensor_file import save_tensors
from pkedit.errors import RunFolderError
from pkedit.evaluate.drift import Drift
from pkedit.evaluate.measure import Measurement, Response, StoredVerdict
from pkedit.evaluate.stats import Metric
from pkedit.judges.base import Judge
from pkedit.run.folder import RunFolder
from pkedit.run.record import write_atomically


def write_measurement(folder: RunFolder, arm: str, measured: Measurement) -> None:
    """Writes `responses.jsonl` and `measured.json` of the arm, each atomically. Tasks are not among them."""
    folder.write_lines(folder.arm_file(arm, "responses.jsonl"), measured.responses)
    metrics = {name: asdict(metric) for name, metric in measured.metrics.items()}
    drift = None if measured.drift is None else asdict(measured.drift)
    write_atomically(folder.arm_file(arm, "measured.json"), json.dumps({"metrics": metrics, "drift": drift}))


def read_measurement(folder: RunFolder, arm: str, judges: Sequence[Judge]) -> Measurement:
    """What `write_measurement` wrote.

    Args:
        folder: of the run.
        arm: which.
        judges: those of now; arms judged by others cannot be compared.

    Raises:
        RunFolderError: absent or damaged, or its verdicts are those of another judge or of another version.
    """
    path = folder.arm_file(arm, "measured.json")
    rows = folder.read_lines(folder.arm_file(arm, "responses.jsonl"))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        drift = content["drift"]
        measured = Measurement(
            {name: Metric(**metric) for name, metric in content["metrics"].items()},
            tuple(
                Response(**{**row, "verdicts": tuple(StoredVerdict(**one) for one in row["verdicts"])}) for row in rows
            ),
            None if drift is None else Drift(**{name: tuple(values) for name, values in drift.items()}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path.parent}: damaged, or of another pkedit ({error}); remove the run folder and run again"
        ) from None
    _check_judged_alike(folder, arm, measured, judges)
    return measured


def write_means(path: Path, means: Sequence[Tensor]) -> None:
    """Writes ā of each MLP, [neurons]."""
    save_tensors({f"{place:05}": one for place, one in enumerate(means)}, path)


def read_means(path: Path) -> tuple[Tensor, ...]:
    """What `write_means` wrote, on the processor.

    Raises:
        RunFolderError: absent or damaged.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete it, and locating is done again") from None
    return tuple(found[name] for name in sorted(found))


def _check_judged_alike(folder: RunFolder, arm: str, measured: Measurement, judges: Sequence[Judge]) -> None:
    now = {(judge.name, judge.version) for judge in judges}
    then = {(verdict.judge, verdict.version) for one in measured.responses for verdict in one.verdicts}
    if then - now:
        names = ", ".join(f"{name} {version}" for name, version in sorted(then - now))
        raise RunFolderError(
            f"{folder.path}: the answers of {arm} were judged by {names}, which is of another version now; "
            "give another --out"
        )
