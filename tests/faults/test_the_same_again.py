"""The same settings give the same files bit for bit, in processes that share nothing but the code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import different, numbers

TESTS = Path(__file__).parents[1]
WORK = "import sys; from pathlib import Path; from small_run import run_small; run_small(Path(sys.argv[1]))"


@pytest.mark.slow
def test_fresh_processes_find_the_same_whatever_order_their_sets_have(tmp_path: Path) -> None:
    processes = []
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([*map(str, (TESTS, TESTS / "faults")), os.environ.get("PYTHONPATH", "")]),
        }
        processes.append(subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path / seed)], env=environment))
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    one, other = (numbers(tmp_path / seed) for seed in ("1", "2"))
    assert len(one) > 8
    assert different(one, other) == []
