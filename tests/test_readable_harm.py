"""`examples/readable_harm.py` reads what gates read, and counts what a reader of it confuses."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pkedit.models.chat import ChatModel
from pkedit.models.hooks import inputs_of
from pkedit.models.precision import arithmetic
from tiny import make_demonstrations

PATH = Path(__file__).parent.parent / "examples" / "readable_harm.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readable_harm", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_threshold_is_that_of_the_harmful_group_which_is_harder_to_find(example: ModuleType) -> None:
    bare, attacked = np.arange(1.0, 101.0), np.arange(101.0, 201.0)
    safe = {"harmless": np.array([0.0, 5.0, 6.0, 7.0]), "long": np.array([0.0]), "borderline": np.array([50.0, 0.0])}
    # Of the bare ones 1 to 5 lie below 5.95.
    assert example.mistaken({"bare": bare, "dg_other_aq": attacked, **safe}) == {
        "harmless": 50.0,
        "long": 0.0,
        "borderline": 50.0,
    }


def test_a_reader_tells_apart_what_differs_and_nothing_else(example: ModuleType) -> None:
    draw = np.random.default_rng(0)
    noise = [draw.normal(size=(80, 6)).astype(np.float32) for _ in range(4)]
    apart = np.array([6, 0, 0, 0, 0, 0], dtype=np.float32)
    fitted = example.reader(noise[0] + apart, noise[1])
    assert (fitted.decision_function(noise[2] + apart) > 0).all()
    assert (fitted.decision_function(noise[3]) < 0).all()
    alike = example.reader(noise[0], noise[1]).decision_function(np.concatenate(noise[2:]))
    assert 0.2 < float((alike > 0).mean()) < 0.8


def test_states_are_those_that_enter_the_mlp_at_the_last_prompt_token(example: ModuleType, llama: ChatModel) -> None:
    prompts = [kept.prompt for kept in make_demonstrations(3)]
    found = example.states(llama, prompts, [1])
    assert [*found] == [1]
    for row, prompt in enumerate(prompts):
        seen: dict[int, torch.Tensor] = {}
        with torch.no_grad(), arithmetic(llama, "auto"), inputs_of([llama.sites[1].input_module], seen.__setitem__):
            llama.body(input_ids=torch.tensor([llama.prompt_ids(prompt.text)]))
        torch.testing.assert_close(found[1][row], seen[0][0, -1].float(), rtol=2e-2, atol=2e-2)
