"""Fails where the quick tests take too few of the code's branches: `make coverage`.

coverage.py's own threshold is for lines and branches together, in which lines outweigh branches by far.
"""

import json
import sys
from pathlib import Path

LEAST_PERCENT = 90.0


def main(report: str) -> int:
    """Prints the shares in a JSON report of coverage.py; 1 if too few branches are covered."""
    totals = json.loads(Path(report).read_text(encoding="utf-8"))["totals"]
    branches, lines = totals["percent_branches_covered"], totals["percent_statements_covered"]
    print(f"{branches:.1f} % of {totals['num_branches']} branches, {lines:.1f} % of {totals['num_statements']} lines")
    if branches < LEAST_PERCENT:
        print(f"{LEAST_PERCENT:.0f} % of the branches are asked for: the table above names what no test reaches.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
