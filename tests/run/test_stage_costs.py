"""The estimates are held against a recorded run of the embedded model, and follow the settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from pkedit.models.checkpoint import meta_model
from pkedit.models.costs import Peaks
from pkedit.models.machine import Memory
from pkedit.models.shape import ModelShape, shape_of
from pkedit.run.asked import AskedPrompts, asked_prompts
from pkedit.run.estimates import HOST, Estimate, Place, advice, estimates, excess, placed
from pkedit.run.stage_costs import StageCost, stage_costs
from pkedit.settings import EvaluateSettings, LocateSettings, RunSettings
from tiny import make_model

GIB = 2**30
# Measured on two cores with AVX512-BF16, and what a run took there: seconds, and the process's peak memory so far.
RATES = {torch.float32: Peaks(195e9, 50e9), torch.bfloat16: Peaks(420e9, 50e9)}
RECORDED = {
    "load": (7.7, 1.11),
    "sample": (26.3, 2.20),
    "locate": (14.4, 3.08),
    "causal": (6.8, 3.08),
    "edit pke": (130.8, 3.25),
    "measure vanilla": (70.9, 3.65),
    "measure pke": (75.1, 3.68),
    "capability vanilla": (8.7, 3.68),
    "capability pke": (7.7, 3.68),
}
SETTINGS = RunSettings(evaluate=EvaluateSettings(max_new_tokens=32))
PLACE = Place("cpu", torch.float32, torch.bfloat16, "test", {HOST: 24 * GIB})


@pytest.fixture(scope="module")
def embedded() -> ModelShape:
    """The sizes of the embedded model."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    return shape_of(meta_model(config))


@pytest.fixture(scope="module")
def asked() -> AskedPrompts:
    return asked_prompts(SETTINGS)


def estimated(shape: ModelShape, asked: AskedPrompts, place: Place = PLACE) -> list[Estimate]:
    return estimates(shape, SETTINGS, asked, place, bits=None, converted=False, rates=RATES.__getitem__)


def costs(shape: ModelShape, settings: RunSettings, asked: AskedPrompts) -> dict[str, StageCost]:
    return {one.name: one for one in stage_costs(shape, settings, asked, weight=4, mixed=2)}


def test_every_stage_takes_about_as_long_as_it_did(embedded: ModelShape, asked: AskedPrompts) -> None:
    found = {one.stage: one.seconds for one in estimated(embedded, asked)}
    assert list(found) == list(RECORDED)
    for stage, (seconds, _) in RECORDED.items():
        assert seconds / 2 < found[stage] < seconds * 2, stage


def test_memory_rises_as_it_did(embedded: ModelShape, asked: AskedPrompts) -> None:
    most = 0.0
    for one in estimated(embedded, asked):
        # What was recorded is the most that the process has had up to then.
        most = max(most, one.needs[HOST] / GIB)
        recorded = RECORDED[one.stage][1]
        assert recorded / 1.5 < most < recorded * 1.5, one.stage


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("gpt2", {}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_every_family_has_costs(family: str, config: dict[str, Any], asked: AskedPrompts) -> None:
    for one in estimated(shape_of(make_model(family, **config)), asked):
        assert 0 < one.seconds < 60
        assert 0 < one.needs[HOST] < 4 * GIB


def test_inactive_experts_take_memory_but_no_arithmetic(asked: AskedPrompts) -> None:
    few, many = (shape_of(make_model("mixtral", num_local_experts=count, num_experts_per_tok=2)) for count in (4, 32))
    router = 2 * 28 * 16
    assert many.active_weights == few.active_weights + router
    assert many.parameters > 3 * few.parameters


@pytest.mark.parametrize("arm", ["suffix", "dinm", "ft", "random"])
def test_every_arm_is_estimated(arm: str, embedded: ModelShape, asked: AskedPrompts) -> None:
    found = costs(embedded, RunSettings(arms=("vanilla", arm)), asked)
    assert f"measure {arm}" in found
    assert (f"edit {arm}" in found) is (arm != "suffix")
    assert ("locate" in found) is (arm == "random")
    assert all(one.work.flops + one.plain.flops > 0 and one.memory > 0 for one in found.values())


def test_scaling_a_baseline_s_edit_costs_its_answers(embedded: ModelShape, asked: AskedPrompts) -> None:
    usual, equal = (
        costs(embedded, RunSettings(arms=("vanilla", "dinm"), equal_success=equal), asked)["edit dinm"].work.flops
        for equal in (False, True)
    )
    assert equal > 1.1 * usual


def test_estimates_follow_the_settings(embedded: ModelShape) -> None:
    small = RunSettings(pairs=50, demonstrations=60, locate=LocateSettings(tokens_per_batch=256))
    usual, less = (costs(embedded, each, asked_prompts(each)) for each in (RunSettings(), small))
    assert less["sample"].work.flops < usual["sample"].work.flops / 3
    assert less["edit pke"].memory < usual["edit pke"].memory
    assert less["locate"].memory < usual["locate"].memory / 2
    steps = RunSettings(locate=LocateSettings(probe_steps=3))
    assert costs(embedded, steps, asked_prompts(steps))["locate"].work.flops > 2 * usual["locate"].work.flops


def test_a_file_of_prompts_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"text": "Question {number}?"}}\n' for number in range(40)))
    few = asked_prompts(RunSettings(harmful=str(path)))
    assert len(few.harmful) < len(asked_prompts(RunSettings()).harmful)


def test_a_gpu_holds_the_model_and_main_memory_loads_it(embedded: ModelShape, asked: AskedPrompts) -> None:
    place = Place("cuda", torch.bfloat16, torch.bfloat16, "test", {HOST: 64 * GIB, "cuda:0": 80 * GIB})
    assert (place.kind, place.measured_on) == ("cuda", "cuda:0")
    load, *others = estimated(embedded, asked, place)
    weights = embedded.parameters * 2
    assert load.needs["cuda:0"] > weights
    assert all(load.needs[HOST] - one.needs[HOST] == weights for one in others)


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkedit.run.estimates.placement", lambda *_: ("cuda:3", torch.bfloat16, "test"))
    host, gpu = Memory("cpu", "main memory", GIB, GIB), Memory("cuda:0", "GPU", GIB, GIB)
    with pytest.raises(Exception, match="cuda:3"):
        placed(RunSettings(device="cuda:3"), host, [gpu])


def test_a_model_on_all_devices_has_all_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkedit.run.estimates.placement", lambda *_: ("auto", torch.bfloat16, "test"))
    gpus = [Memory(f"cuda:{number}", "GPU", GIB, GIB) for number in range(2)]
    place = placed(RunSettings(device="auto"), Memory("cpu", "main memory", GIB, GIB), gpus)
    assert list(place.pools.values()) == [3 * GIB]
    assert (place.kind, place.measured_on) == ("cuda", "cuda")


def test_advice_is_what_was_found_to_help(embedded: ModelShape) -> None:
    def again(free: float, settings: RunSettings) -> tuple[list[Estimate], Place]:
        dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
        place = Place("cpu", dtype, torch.bfloat16, "test", {HOST: round(free * GIB)})
        asked = asked_prompts(settings)
        return estimates(embedded, settings, asked, place, bits=None, converted=False), place

    found, place = again(2.4, SETTINGS)
    assert excess(found, place.pools) > 1
    helpful = advice(SETTINGS, lambda settings: again(2.4, settings))
    assert helpful.startswith("It would fit with --dtype bfloat16")
    assert "times the memory" in advice(SETTINGS, lambda settings: again(0.5, settings))
