"""`pkedit table`: arms of several run folders in one table, if they were asked the same prompts and judged alike."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pkedit.errors import RunFolderError
from pkedit.run.folder import RunFolder
from pkedit.run.record import RunRecord
from pkedit.run.summary import metric_tables


def side_by_side(folders: Sequence[Path]) -> RunRecord:
    """The arms of all folders in one record.

    Arms of one model keep their names; from the second folder on they are called after their model.

    Raises:
        RunFolderError: a folder holds no finished measurement, was asked other prompts, had answers of another length,
            or was judged by other judges.
    """
    if not folders:
        raise RunFolderError("there is nothing to show; name at least one run folder")
    first = RunRecord.load(folders[0])
    merged = first.model_copy(deep=True)
    expected = _asked(folders[0])
    for path in folders[1:]:
        record = RunRecord.load(path)
        if _asked(path) != expected:
            raise RunFolderError(
                f"{path} was asked other prompts than {folders[0]}, so that their figures cannot be compared; measure "
                "it with the same prompts and the same --seed"
            )
        if record.settings.evaluate.max_new_tokens != first.settings.evaluate.max_new_tokens:
            raise RunFolderError(
                f"the answers of {path} and {folders[0]} were cut at other lengths; give the same --max-new-tokens"
            )
        judges = [(judge.name, judge.version) for judge in record.judges]
        if judges != [(judge.name, judge.version) for judge in first.judges]:
            raise RunFolderError(f"{path} was judged by others than {folders[0]}; give the same --judges")
        for arm, metrics in record.metrics.items():
            name = record.settings.model if arm == "vanilla" else f"{record.settings.model} {arm}"
            if name in merged.metrics:
                name = f"{name} ({path})"
            merged.metrics[name] = metrics
    return merged


def print_side_by_side(merged: RunRecord, console: Console) -> None:
    """Prints what `side_by_side` put together."""
    for table in metric_tables(merged, console.width):
        console.print(table)
    console.print("Value and 95 % interval; n is the number of prompts.", style="dim")


def _asked(folder: Path) -> frozenset[tuple[str, str]]:
    """The group and text of every prompt that the arms of a run were asked."""
    rows = RunFolder(folder, RunRecord.load(folder)).read_lines(folder / "responses.jsonl")
    return frozenset((row["group"], row["prompt"]) for row in rows)
