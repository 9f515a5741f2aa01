"""Edits a tiny model, evaluates it and takes the edit back, again and again, and says what memory that took."""

from collections.abc import Iterator

import psutil

from pkedit.edit.editor import edit
from pkedit.evaluate.measure import measure
from pkedit.evaluate.suite import Suite
from pkedit.judges.rules import RuleJudge
from pkedit.settings import EditSettings
from tiny import make_chat, make_demonstrations, make_pairs, make_region

SETTINGS = EditSettings(steps=1, pairs_per_step=2, demonstrations_per_step=2)


def cycles(count: int) -> Iterator[float]:
    """The megabytes of this process after each edit, evaluation and revert."""
    chat, region = make_chat(), make_region({0: [1, 2], 1: [3]})
    pairs, kept = make_pairs(2), make_demonstrations(2)
    suite = Suite({"harmless": tuple(one.prompt for one in kept), "bare": tuple(pair.prompt for pair in pairs)})
    process = psutil.Process()
    for _ in range(count):
        delta = edit(chat, region, pairs, kept, SETTINGS).delta
        with delta.applied_to(chat):
            measure(chat, suite, [RuleJudge()], arm="pke", max_new_tokens=4)
        yield process.memory_info().rss / 2**20
