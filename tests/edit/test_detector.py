"""A detector reads 1 on harmful prompts, little on harmless ones, and nothing where there is no difference."""

import pytest
import torch

from pkedit.edit.detector import detector

SIZE = 12


def inputs(count: int, *, seed: int, marked: bool) -> torch.Tensor:
    """Random inputs; in marked ones coordinate 3 is large, and in all of them coordinate 0."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, SIZE, generator=generator)
    states[:, 0] += 5.0
    if marked:
        states[:, 3] += 6.0
    return states


def test_it_reads_one_on_the_mean_harmful_input() -> None:
    harmful = inputs(60, seed=0, marked=True)
    assert harmful.mean(0) @ detector(harmful, inputs(80, seed=1, marked=False)) == pytest.approx(1.0, abs=1e-4)


def test_it_separates_inputs_that_it_has_not_seen() -> None:
    direction = detector(inputs(60, seed=0, marked=True), inputs(80, seed=1, marked=False))
    harmful, harmless = inputs(50, seed=2, marked=True) @ direction, inputs(50, seed=3, marked=False) @ direction
    assert harmful.min() > harmless.max()
    assert harmless.abs().mean() < 0.3


def test_what_all_prompts_share_is_not_what_it_reads() -> None:
    direction = detector(inputs(60, seed=0, marked=True), inputs(80, seed=1, marked=False))
    # Coordinate 0 is as large as the mark, in both kinds.
    assert abs(direction[0]) < 0.3 * abs(direction[3])


def test_the_larger_class_does_not_weigh_more() -> None:
    harmful, harmless = inputs(40, seed=0, marked=True), inputs(40, seed=1, marked=False)
    once, thrice = detector(harmful, harmless), detector(harmful, harmless.repeat(3, 1))
    assert torch.allclose(once, thrice, atol=1e-4)


def test_there_is_nothing_to_detect_where_harmful_inputs_are_zero() -> None:
    assert torch.equal(detector(torch.zeros(4, SIZE), inputs(8, seed=1, marked=False)), torch.zeros(SIZE))
