"""An hour of faults between a remote evaluation and its endpoint: `.venv/bin/python tests/faults/remote_hour.py`.

A server on loopback fails four attempts in ten, each in one of six ways, and the process that asks is killed now and
then. At the end every request has to have one answer, the right one, and no request may have been answered again by the
server unless a kill fell between the answer and its arrival on disk.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fake_openai import FakeOpenAI, Fault, Seen

FAULTS = (Fault.RATE_LIMIT, Fault.ERROR, Fault.SLOW, Fault.CUT, Fault.RESET, Fault.MALFORMED)
SHARE = 0.4
ROUND, AT_ONCE, DELAY, TIMEOUT = 200, 4, 1.5, 15.0
# Seconds that a process asks before it is killed, drawn evenly; most rounds end before.
KILLED_AFTER = (20.0, 400.0)
MORE_TOKENS = 8


class Faulty(FakeOpenAI):
    """Draws a fault for some attempts, and counts them."""

    def __init__(self, seed: int) -> None:
        super().__init__(delay=DELAY)
        self._draw = random.Random(seed)
        self.injected: Counter[str] = Counter()

    def next_fault(self, seen: Seen) -> Fault | None:
        """One of six, or none."""
        with self.lock:
            self.seen.append(seen)
            if self._draw.random() >= SHARE:
                return None
            fault = self._draw.choice(FAULTS)
            self.injected[fault.name] += 1
            return fault


def ask(url: str, cache: Path, first: int) -> None:
    """One round, asked until no answer is missing: what a user does whose evaluation lacks some."""
    from pkedit.models.remote import AnswerStatus, RemoteModel

    prompts = [f"question {number}" for number in range(first, first + ROUND)]
    while True:
        model = RemoteModel("tiny", api_base=url, cache=cache, concurrency=AT_ONCE, timeout=TIMEOUT)
        answers = model.ask(prompts, max_new_tokens=MORE_TOKENS)
        if all(answer.status is AnswerStatus.ANSWERED for answer in answers):
            break
    wrong = [prompt for prompt, one in zip(prompts, answers, strict=True) if one.text != f"echo: {prompt}"]
    sys.exit(f"wrong answers: {wrong[:3]}" if wrong else 0)


def main() -> None:
    """Rounds until the time is up, then what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    kills = rounds = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Faulty(chosen.seed) as server:
        while time.monotonic() - started < 60 * chosen.minutes:
            worker = [sys.executable, __file__, "--ask", server.url, folder, str(rounds * ROUND)]
            environment = {**os.environ, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(worker, env=environment)
            try:
                code = process.wait(draw.uniform(*KILLED_AFTER))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                continue
            if code:
                sys.exit(f"round {rounds} ended with {code}")
            rounds += 1
    asked = rounds * ROUND
    finished = {f"question {number}" for number in range(asked)}
    missing = finished - server.answered.keys()
    again = sum(server.answered[prompt] - 1 for prompt in finished & server.answered.keys())
    hours = (time.monotonic() - started) / 3600
    print(f"{hours:.2f} hours: {asked} requests in {rounds} rounds, {len(server.seen)} attempts")
    print("faults: " + ", ".join(f"{count} {name.lower()}" for name, count in sorted(server.injected.items())))
    print(f"killed {kills} times; {len(missing)} requests without an answer; {again} answered again by the server")
    sys.exit(int(bool(missing) or again > kills * AT_ONCE))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        ask(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
