"""Changes the code in one place at a time and counts how many of the changes a test notices: `make mutants`.

The changes are mutmut's, in all of locate/, edit/ and evaluate/stats.py. Each is tried by the tests that run through
the changed function. A sample is tried, the same for the same seed and code; `--all` tries all, which takes hours.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mutants import Mutant, read_mutants, sample, statuses
from outcomes import NOTICED, outcome_table, share_killed
from rich.console import Console
from workspace import prepare

ROOT = Path(__file__).parents[2]
WORKSPACE = ROOT / "build" / "mutation"
LEAST_SHARE_KILLED = 0.85


def main() -> int:
    """Prints the survivors and the table; 1 if too few mutants are killed."""
    asked = _arguments()
    prepare(ROOT, WORKSPACE)
    mutants = read_mutants(WORKSPACE)
    chosen = sample(mutants, None if asked.all else asked.size, asked.seed)
    _try(chosen, asked.processes)
    status_by_name = statuses(WORKSPACE, chosen)
    for mutant in chosen:
        if status_by_name[mutant.name] not in NOTICED:
            print(f"\n{mutant.name}: {status_by_name[mutant.name]}\n{mutant.difference}")
    Console(highlight=False, width=110).print(outcome_table(mutants, status_by_name))
    share = share_killed(status_by_name)
    counted = sum(mutant.rule is None for mutant in mutants)
    print(f"{share.value:.1%} of {share.n} mutants killed; {counted} could be tried", end="")
    print("." if share.n == counted else f", the share of all is {share.low:.1%} to {share.high:.1%} (95 %).")
    return 0 if share.value >= LEAST_SHARE_KILLED else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--size", type=int, default=600, help="how many are tried (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="which (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (default: one per core)")
    return parser.parse_args()


def _try(mutants: list[Mutant], processes: int) -> None:
    mutmut = Path(sys.executable).with_name("mutmut")
    names = [mutant.name for mutant in mutants]
    environment = {
        **os.environ,
        # On one thread: the tests run in forked processes, and those have none of their parent's threads.
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        # Where pytest looks for the plugin that pyproject.toml names.
        "PYTHONPATH": str(Path(__file__).parent),
    }
    subprocess.run(
        [mutmut, "run", "--max-children", str(processes), *names], cwd=WORKSPACE, env=environment, check=True
    )


if __name__ == "__main__":
    sys.exit(main())
