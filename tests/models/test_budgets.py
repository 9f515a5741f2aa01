"""A batch on a processor is as large as was asked for; a GPU, and only a GPU, gets more."""

from collections.abc import Callable

import pytest

from pkedit.models import budgets
from pkedit.settings import LocateSettings


@pytest.mark.parametrize("budget", [budgets.read, budgets.traced])
def test_a_processor_gets_what_was_asked_for_and_a_gpu_more(budget: Callable[[int, str], int]) -> None:
    assert budget(768, "cpu") == 768
    assert budget(768, "cuda") > 768
    assert budget(768, "a new kind") == 768


def test_prompts_that_were_read_take_less_room_than_tokens_that_are_run() -> None:
    assert 768 < budgets.frozen(768, "cpu") < budgets.frozen(768, "cuda")


def test_answers_of_more_tokens_are_written_together_on_a_gpu() -> None:
    assert budgets.written("cpu") < budgets.written("cuda")
    assert budgets.written("a new kind") == budgets.written("cpu")


def test_two_dialogues_of_500_tokens_share_a_traced_pass_on_a_gpu() -> None:
    assert budgets.traced(LocateSettings().tokens_per_batch, "cuda") >= 2 * 520
