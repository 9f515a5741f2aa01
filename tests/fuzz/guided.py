"""Fuzzes one loader with atheris, which follows the branches that its input takes. Needs `pip install atheris`.

    python tests/fuzz/guided.py delta -runs=100000

The loader is one of `jsonl`, `json`, `csv`, `parquet`, `safeedit`, `delta`, `region` and `run`. Anything but one line
for the file's owner ends it with the input that did it, in a file `crash-…`.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pkedit"]):
    from pkedit.edit.delta import Delta
    from pkedit.errors import PkeditError
    from pkedit.locate.region import Region
    from pkedit.prompts.loading import load_prompts
    from pkedit.prompts.safeedit import load_safeedit
    from pkedit.prompts.types import Kind
    from pkedit.run.record import RunRecord


def load_harmful(path: Path) -> object:
    return load_prompts(path, Kind.HARMFUL)


# The loader, and the name of the file that it is given.
LOADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{name: (load_harmful, f"prompts.{name}") for name in ("jsonl", "json", "csv", "parquet")},
    "safeedit": (load_safeedit, "cases.json"),
    "delta": (Delta.load, "delta.safetensors"),
    "region": (Region.load, "region.json"),
    "run": (lambda path: RunRecord.load(path.parent), "run.json"),
}


def main() -> None:
    """Fuzzes until the budget is spent, which libFuzzer's own options say."""
    chosen = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if chosen not in LOADERS:
        sys.exit(f"usage: guided.py {'|'.join(LOADERS)} [-runs=N] [-max_total_time=SECONDS]")
    load, name = LOADERS[chosen]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name

        def try_one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                load(path)
            except PkeditError as error:
                if "\n" in str(error):
                    raise AssertionError(f"more than one line: {error}") from error

        atheris.Setup(sys.argv, try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
