"""Causes every kind of fault and prints how many of each a run survived: `.venv/bin/python tests/faults/table.py`.

Words behind the command choose the kinds that have one of them in their name: `… table.py disk damaged`.
"""

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> int:
    """Prints the table, then each fault that was not survived; 1 if there is one."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from kinds import KINDS, MOUNTING, can_mount
    from small_run import run_small

    table = Table("Fault", "Survived", "Of", "Seconds", pad_edge=False)
    lost = []
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        run_small(whole)
        for number, (name, cause) in enumerate(KINDS.items()):
            if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
                continue
            if name in MOUNTING and not can_mount():
                table.add_row(name, "–", "–", "needs the right to mount")
                continue
            began = time.perf_counter()
            scratch = Path(temporary) / str(number)
            scratch.mkdir()
            outcomes = list(cause(whole, scratch))
            wrong = [outcome for outcome in outcomes if outcome.wrong]
            lost += [f"{name}, {outcome.where}: {outcome.wrong}" for outcome in wrong]
            seconds = f"{time.perf_counter() - began:.1f}"
            table.add_row(name, str(len(outcomes) - len(wrong)), str(len(outcomes)), seconds)
            print(f"{name}: {len(outcomes) - len(wrong)} of {len(outcomes)}", file=sys.stderr, flush=True)
    Console(highlight=False).print(table)
    print(*lost, sep="\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
