"""Each stage on a tiny random model: its floors do the same work, and the model is as it was."""

from typing import Any

import pytest
import torch

from pkedit.bench.generate_stage import all_of_length, bare
from pkedit.bench.locate_stage import floor_of
from pkedit.bench.material import Material, made_up_material, mean_prompt_tokens
from pkedit.bench.shallow import shallower
from pkedit.bench.stages import OF_A_MODEL, OF_A_SHAPE, STAGES
from pkedit.bench.workbench import Sizes, Workbench
from pkedit.locate.locating import locate
from pkedit.models.chat import ChatModel
from pkedit.settings import LocateSettings
from tiny import changed_weights, leftovers, make_chat, make_demonstrations, make_pairs, snapshot

SIZES = Sizes(
    located=(3, 4),
    edited=(3, 4),
    answered=(5, 6),
    batches=(2, 4, 64),
    growing_pairs=(2, 4),
    growing_tokens=(16, 24),
    whole=(3, 4, 2),
)


@pytest.fixture
def bench(llama: ChatModel) -> Workbench:
    pairs, kept = make_pairs(), make_demonstrations()
    texts = tuple(one.prompt.text for one in (*pairs, *kept))
    return Workbench(llama, Material(tuple(pairs), tuple(kept), texts), SIZES, 1, lambda done, total: None)


# Growth repeats the others at several sizes; the test of the command runs it.
@pytest.mark.parametrize("name", sorted(set(STAGES) - {"growth"}))
def test_a_stage_measures_and_leaves_the_model_as_it_was(bench: Workbench, name: str) -> None:
    before = snapshot(bench.chat.model)
    figures = STAGES[name](bench)
    assert figures.name == name
    assert figures.rows or figures.curves
    for row in figures.rows:
        assert row.seconds > 0
        assert row.tokens > 0
        assert row.peak_share is None or 0 < row.peak_share < 1
    for ratio in figures.ratios:
        # Tensors are counted, once.
        assert len(ratio.values) == (1 if "tensors" in ratio.name else bench.repeats)
    assert changed_weights(bench.chat.model, before) == []
    assert leftovers(bench.chat.model) == []
    assert len(bench.chat.blocks) == 2


def test_every_stage_that_runs_by_default_exists() -> None:
    assert set(OF_A_MODEL) | set(OF_A_SHAPE) == set(STAGES)


def test_the_floor_of_locating_reads_the_same_dialogues_in_the_same_batches(
    llama: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LocateSettings(pairs=4, demonstrations=4, tokens_per_batch=40)
    seen: list[torch.Tensor] = []
    forward = type(llama.body).forward

    def counting(self: Any, *args: Any, **inputs: Any) -> Any:
        seen.append(inputs["input_ids"])
        return forward(self, *args, **inputs)

    monkeypatch.setattr(type(llama.body), "forward", counting)
    located = locate(llama, make_pairs(), make_demonstrations(), settings)
    of_locating = list(seen)
    floor = floor_of(llama, located, settings)
    for run in (floor.plain, floor.with_weights):
        seen.clear()
        run()
        assert len(of_locating) > 2
        assert all(torch.equal(own, other) for own, other in zip(seen, of_locating, strict=True))


def test_only_the_second_floor_has_gradients_of_weights(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LocateSettings(pairs=4, demonstrations=4)
    floor = floor_of(llama, locate(llama, make_pairs(), make_demonstrations(), settings), settings)
    with_gradient: list[int] = []
    parameters = list(llama.model.parameters())
    plain_pass = type(floor)._pass

    def watched(self: Any) -> None:
        plain_pass(self)
        with_gradient.append(sum(weight.grad is not None for weight in parameters))

    monkeypatch.setattr(type(floor), "_pass", watched)
    floor.plain()
    floor.with_weights()
    # All but the head, which is run in chunks.
    assert with_gradient == [0, len(parameters) - 1]
    assert all(weight.grad is None for weight in parameters)


def test_answers_are_those_of_transformers_and_of_the_wanted_length(
    llama: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [one.prompt.text for one in (*make_pairs(), *make_demonstrations())]
    lengths: list[int] = []
    generate = type(llama.model).generate

    def counting(self: Any, **inputs: Any) -> Any:
        written = generate(self, **inputs)
        lengths.append(written.shape[1] - inputs["input_ids"].shape[1])
        return written

    monkeypatch.setattr(type(llama.model), "generate", counting)
    with all_of_length(llama.model, 6):
        own = llama.generate(texts, max_new_tokens=6)
        assert [answer.strip() for answer in bare(llama, texts, 6, 3)] == own
    assert set(lengths) == {6}
    assert llama.model.generation_config.min_new_tokens != 6


def test_made_up_prompts_have_the_wanted_length(llama: ChatModel) -> None:
    material = made_up_material(llama, 3, prompt_tokens=40)
    assert len(material.pairs) == len(material.demonstrations) == 3
    assert mean_prompt_tokens(llama, material) == 40
    assert len(set(material.texts)) == 6


@pytest.fixture(params=["llama", "qwen2", "gpt2", "mixtral"])
def deep(request: pytest.FixtureRequest) -> ChatModel:
    return make_chat(request.param, layers=3)


def test_a_shallower_view_runs_the_first_layers_and_is_put_back(deep: ChatModel) -> None:
    ids = torch.tensor([[0, 7, 8, 9]])
    with torch.no_grad():
        whole = deep.model(ids).logits
        with shallower(deep, 2) as view:
            assert view.layers == 2
            assert {site.layer for site in view.sites} == {0, 1}
            fewer = view.model(ids).logits
            assert view.generate(["w1 w2"], max_new_tokens=2)
        assert not torch.equal(whole, fewer)
        assert torch.equal(deep.model(ids).logits, whole)
    with pytest.raises(ValueError, match="4 layers"), shallower(deep, 4):
        pass
