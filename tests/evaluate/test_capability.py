"""Capability: lm-eval's tasks on the loaded model give lm-eval's results, and leave everything as it was."""

import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pkedit.errors import ChatTemplateError
from pkedit.evaluate.capability import Capability, CapabilityError, capability_change, measure_capability
from pkedit.evaluate.stats import Metric, mcnemar, proportion
from pkedit.evaluate.tasks.branches import Branching, reads_branches, score_branches
from pkedit.models.chat import ChatModel
from tiny import SYSTEM_TEMPLATE, changed_weights, leftovers, make_chat, snapshot, words

TASK = """\
task: tiny_words
custom_dataset: !function items.load
output_type: {output}
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: answer
metadata:
  version: 1.0
"""
LOADER = """\
import json
from pathlib import Path


def load(**_):
    from datasets import Dataset

    return {"test": Dataset.from_list(json.loads((Path(__file__).parent / "items.json").read_text()))}
"""


def save_task(folder: Path, *, output: str = "multiple_choice", count: int = 12, extra: str = "") -> str:
    """A task over the words that tiny models know."""
    items = [
        {
            "text": words(2 + number % 4, seed=number),
            # Of different lengths, with a common beginning in every third.
            "choices": [
                ("w1 w2 " if number % 3 == 0 else "") + words(1 + (number + place) % 3, seed=100 * number + place)
                for place in range(4)
            ],
            "answer": number % 4,
        }
        for number in range(count)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "items.json").write_text(json.dumps(items), encoding="utf-8")
    (folder / "items.py").write_text(LOADER, encoding="utf-8")
    (folder / "tiny_words.yaml").write_text(TASK.format(output=output) + extra, encoding="utf-8")
    return str(folder / "tiny_words.yaml")


def plain_samples(chat: ChatModel, task: str) -> list[dict[str, Any]]:
    """lm-eval with its own model class, one sequence per choice."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    model = HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=3)
    results = lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=manager, apply_chat_template=True, bootstrap_iters=0
    )
    return results["samples"]["tiny_words"]


def continuation_score(model: Any, text: tuple[int, ...], continuation: tuple[int, ...]) -> tuple[float, bool]:
    ids = torch.tensor([[*text, *continuation]])
    logits: Tensor = model(ids, use_cache=False).logits[0].float().log_softmax(-1)
    places = torch.arange(len(text) - 1, ids.shape[1] - 1)
    targets = ids[0, places + 1]
    return float(logits[places, targets].sum()), bool((logits[places].argmax(-1) == targets).all())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "gemma", "granite", "mistral", "olmo2"])
@pytest.mark.parametrize("shared", [0, 9])
@torch.no_grad()
def test_choices_scored_together_get_what_each_would_get_alone(family: str, shared: int) -> None:
    model = make_chat(family).model
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, 200, (count,), generator=draw).tolist())

    beginning = tokens(shared)
    asked = [
        Branching(beginning + tokens(1 + number), (tokens(3), tokens(1), tokens(2) + tokens(3), (7, 8), (7, 9, 10)))
        for number in range(5)
    ]
    asked.append(Branching(beginning + tokens(2), ((7, 8, 9), (7, 8, 10), (7, 8))))
    asked.append(Branching(beginning + tokens(2), (tokens(4),)))
    # One that greedy decoding writes.
    text = beginning + tokens(3)
    best = int(model(torch.tensor([text])).logits[0, -1].argmax())
    asked.append(Branching(text, ((best,), (best + 1, 7))))
    assert all(reads_branches(model, item) for item in asked)
    scores = score_branches(model, asked, batch_size=3)
    assert scores[-1][0][1]
    for item, found in zip(asked, scores, strict=True):
        expected = [continuation_score(model, item.text, continuation) for continuation in item.continuations]
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_model_whose_attention_takes_no_such_mask_or_has_a_short_window_is_asked_the_usual_way() -> None:
    model = make_chat("mistral", sliding_window=8).model
    assert reads_branches(model, Branching((1,) * 6, ((1, 2), (3,))))
    assert not reads_branches(model, Branching((1,) * 7, ((1, 2), (3,))))
    model.config._attn_implementation = "flash_attention_2"
    assert not reads_branches(model, Branching((1,), ((2,),)))


@pytest.mark.parametrize("template", [None, SYSTEM_TEMPLATE])
def test_results_are_those_of_lm_eval_itself(llama: ChatModel, tmp_path: Path, template: str | None) -> None:
    if template is not None:
        llama.tokenizer.chat_template = template
    task = save_task(tmp_path)
    measured = measure_capability(llama, [task], precision="full", batch_size=5)[task]
    expected = {f"tiny_words/{row['doc_id']}": bool(row["acc_norm"]) for row in plain_samples(llama, task)}
    assert measured.correct == expected
    assert 0 < sum(expected.values()) < len(expected)
    assert measured.measure == "acc_norm"
    assert measured.metric == proportion(sum(expected.values()), 12)


def test_a_task_that_lets_the_model_write_counts_exact_answers(llama: ChatModel, tmp_path: Path) -> None:
    extra = "generation_kwargs:\n  until: [w1]\n  max_gen_toks: 3\nmetric_list:\n  - metric: exact_match\n"
    task = save_task(tmp_path, output="generate_until", count=2, extra=extra)
    generation = llama.model.generation_config.to_dict()
    measured = measure_capability(llama, [task], batch_size=2)[task]
    assert measured.measure == "exact_match"
    assert measured.correct == {"tiny_words/0": False, "tiny_words/1": False}
    assert llama.model.generation_config.to_dict() == generation


def test_lm_evals_own_passes_keep_the_mixed_precision(
    llama: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkedit.evaluate.tasks.harness.reads_branches", lambda *_: False)
    seen: list[torch.dtype] = []
    llama.sites[0].write.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    measure_capability(llama, [save_task(tmp_path)], precision="bfloat16")
    assert set(seen) == {torch.bfloat16}


def test_everyday_runs_without_a_network_and_changes_nothing(
    llama: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    llama.model.train()
    weights = snapshot(llama.model)
    next(llama.model.parameters()).requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in llama.model.parameters()]
    generation = llama.model.generation_config.to_dict()
    padding = (llama.tokenizer.pad_token, llama.tokenizer.padding_side)
    environment = dict(os.environ)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    measured = measure_capability(llama, ["everyday"], limit=3)["everyday"]

    assert list(measured.correct) == ["everyday/0", "everyday/1", "everyday/2"]
    assert measured.metric.n == 3
    assert changed_weights(llama.model, weights) == []
    assert leftovers(llama.model) == []
    assert all(module.training for module in llama.model.modules())
    assert [parameter.requires_grad for parameter in llama.model.parameters()] == wanted
    assert llama.dtype == torch.float32
    assert llama.model.generation_config.to_dict() == generation
    assert (llama.tokenizer.pad_token, llama.tokenizer.padding_side) == padding
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert dict(os.environ) == environment
    assert logging.getLogger("lm_eval").level == logging.NOTSET
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_verbose_shows_what_lm_eval_says(llama: ChatModel, capfd: pytest.CaptureFixture[str]) -> None:
    measure_capability(llama, ["everyday"], limit=1, verbose=True)
    assert "1/1" in capfd.readouterr().err


def test_a_task_without_right_and_wrong_is_refused(llama: ChatModel, tmp_path: Path) -> None:
    brier = "metric_list:\n  - metric: brier_score\n    aggregation: brier_score\n    higher_is_better: false\n"
    task = save_task(tmp_path, extra=brier)
    with pytest.raises(CapabilityError, match=r"rightly \(it gives brier_score\)"):
        measure_capability(llama, [task])


def test_a_task_that_runs_the_models_code_is_refused(llama: ChatModel, tmp_path: Path) -> None:
    task = save_task(tmp_path, extra="unsafe_code: true\n")
    with pytest.raises(CapabilityError, match="executes code"):
        measure_capability(llama, [task])


def test_a_task_from_the_hub_says_that_it_needs_the_network(llama: ChatModel, tmp_path: Path) -> None:
    task = tmp_path / "remote.yaml"
    remote = TASK.format(output="multiple_choice").replace(
        "custom_dataset: !function items.load", "dataset_path: nobody/there-is-no-such-dataset"
    )
    task.write_text(remote, encoding="utf-8")
    with pytest.raises(CapabilityError, match="go online, or use the task everyday"):
        measure_capability(llama, [str(task)])


def test_an_unknown_task_names_those_that_are_near(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # The index of lm-eval's own tasks takes seconds to build.
    monkeypatch.setattr("pkedit.evaluate.capability._includes_defaults", lambda *_: False)
    with pytest.raises(CapabilityError, match=r"no task 'evryday'; did you mean everyday\?"):
        measure_capability(llama, ["evryday"])
    with pytest.raises(CapabilityError, match="lm-eval ls tasks"):
        measure_capability(llama, ["zzz"])


def test_a_model_without_chat_template_is_refused(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match="no chat template"):
        measure_capability(llama, ["everyday"])


def made(correct: dict[str, bool]) -> Capability:
    return Capability("t", "acc", proportion(sum(correct.values()), len(correct)), correct)


def test_a_change_is_paired_by_item() -> None:
    names = [f"t/{number}" for number in range(10)]
    before = made(dict.fromkeys(names, True))
    after = made({name: number >= 4 for number, name in reversed(list(enumerate(names)))})
    difference, p_value = capability_change(before, after, seed=0)
    assert difference.value == pytest.approx(-0.4)
    assert difference.n == 10
    assert p_value == mcnemar([True] * 10, [False] * 4 + [True] * 6)
    assert capability_change(before, before, seed=0) == (Metric(0.0, 10, 0.0, 0.0), 1.0)


def test_a_change_on_other_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="same items"):
        capability_change(made({"t/0": True}), made({"t/1": True}), seed=0)
