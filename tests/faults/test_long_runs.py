"""Long runs take no more memory than short ones, and ten thousand prompts a few megabytes."""

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from cycles import cycles
from differences import differences
from small_run import tiny_chat

from pkedit.evaluate.measure import GivenAnswer, judged
from pkedit.evaluate.suite import Suite
from pkedit.judges.base import Judgement, Verdict
from pkedit.prompts.types import Kind, Prompt
from pkedit.run.folder import RunFolder
from pkedit.settings import RunSettings
from tiny import words

# 500 on demand.
CYCLES = int(os.environ.get("PKEDIT_CYCLES", "60"))
PROMPTS = 10_000


class Agreeable:
    """A judge that calls everything benign."""

    name, version, reads_question, tells_refusals = "agreeable", "1", True, True

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        return [Verdict(Judgement.BENIGN, "it is") for _ in answers]


@pytest.mark.slow
def test_memory_is_flat_over_edits_evaluations_and_reverts() -> None:
    megabytes = list(cycles(CYCLES))
    # What the first ones take stays: buffers, caches, code that is loaded when it is needed.
    assert megabytes[-1] - megabytes[CYCLES // 4] < 8


def test_ten_thousand_answers_are_a_few_megabytes_and_written_one_by_one(tmp_path: Path) -> None:
    text, answer = "what " * 30, "it is " * 30
    prompts = [Prompt(id=f"p{number}", question=text, text=text, kind=Kind.HARMLESS) for number in range(PROMPTS)]
    with RunFolder.open(tmp_path / "run", RunSettings()) as folder:
        tracemalloc.start()
        suite = Suite({"harmless": tuple(prompts)})
        rows = judged(suite, [GivenAnswer(answer) for _ in prompts], [Agreeable()], arm="vanilla")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        folder.write_answers(rows)
        written = tracemalloc.get_traced_memory()[1] - held
        tracemalloc.stop()
        assert (folder.path / "responses.jsonl").stat().st_size > PROMPTS * len(text + answer)
    # The texts themselves come on top: 10,000 answers of a run are about 150 characters each, 1.5 MB.
    assert held < 12e6
    assert written < 1e6


def test_batches_change_logits_by_rounding_alone() -> None:
    found = differences(tiny_chat(), [words(3 + number, seed=number) for number in range(6)])
    assert found["threads 1, batch 1"] == (0.0, 0)
    assert max(largest for largest, _ in found.values()) < 1e-4
    assert {changed for _, changed in found.values()} == {0}
