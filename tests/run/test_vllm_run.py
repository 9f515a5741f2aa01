"""A saved model is measured through vLLM. A stand-in takes its place here, with the calls that pkedit makes of it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pkedit.cli import main
from pkedit.errors import ChatTemplateError, ModelLoadError, PkeditError
from pkedit.models import load_model
from pkedit.models.vllm_engine import VllmEngine
from pkedit.run.evaluation import evaluate
from pkedit.run.pipeline import run
from pkedit.run.record import RunRecord
from pkedit.settings import EvaluateSettings, RunSettings
from tiny import TEMPLATE, save_chat

SIZES = EvaluateSettings(
    seen=1, cross=1, unseen=3, harmless=2, borderline=2, max_new_tokens=8, judges=("rules",), capability=()
)
TEXTS = ["w1 w2 w3", "w5", "w7 w8 w9"]


@dataclass(frozen=True)
class SamplingParams:
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class RequestOutput:
    outputs: list[Completion]


class LLM:
    """Answers greedily, one prompt after the other, as vLLM's class of this name is called."""

    def __init__(self, *, model: str, tokenizer: str, dtype: str, trust_remote_code: bool, seed: int) -> None:
        assert tokenizer == model
        self._model: Any = AutoModelForCausalLM.from_pretrained(model)

    def generate(self, prompts: list[dict[str, list[int]]], params: SamplingParams, *, use_tqdm: bool) -> Any:
        assert params.temperature == 0.0
        outputs = []
        for prompt in prompts:
            ids = torch.tensor([prompt["prompt_token_ids"]])
            written = self._model.generate(ids, max_new_tokens=params.max_tokens, do_sample=False)
            outputs.append(RequestOutput([Completion(tuple(written[0, ids.shape[1] :].tolist()))]))
        return outputs


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = LLM, SamplingParams, "0.0 (stand-in)"
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_chat(tmp_path / "model", max_position_embeddings=2048)


@pytest.mark.usefixtures("_stand_in")
def test_answers_are_those_of_transformers(model: Path) -> None:
    engine = VllmEngine(str(model))
    assert engine.generate(TEXTS, max_new_tokens=6) == load_model(str(model)).generate(TEXTS, max_new_tokens=6)
    assert engine.reason == "vLLM 0.0 (stand-in), dtype auto"


@pytest.mark.usefixtures("_stand_in")
def test_the_figures_are_those_of_transformers_without_what_needs_the_weights(tmp_path: Path, model: Path) -> None:
    settings = RunSettings(model=str(model), evaluate=SIZES)
    expected = evaluate(settings, tmp_path / "usual").metrics["vanilla"]
    record = evaluate(settings.model_copy(update={"engine": "vllm"}), tmp_path / "vllm")
    metrics = record.metrics["vanilla"]
    assert {"asr", "over_refusal", "fluency"} <= metrics.keys()
    assert not {"kl", "perplexity", "capability"} & metrics.keys()
    assert metrics == {name: expected[name] for name in metrics}
    assert record.model_note == "vLLM 0.0 (stand-in), dtype auto"
    assert (tmp_path / "vllm" / "responses.jsonl").is_file()


@pytest.mark.usefixtures("_stand_in")
def test_it_is_an_option_of_evaluate_and_a_second_call_asks_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(RunSettings(evaluate=SIZES).model_dump_json())
    command = ["evaluate", str(model), "--settings", str(settings), "--engine", "vllm", "--out", str(tmp_path / "run")]
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert not stop.value.code
        monkeypatch.setattr(LLM, "generate", None)
    assert RunRecord.load(tmp_path / "run").settings.engine == "vllm"


@pytest.mark.usefixtures("_stand_in")
def test_what_vllm_cannot_do_is_said(tmp_path: Path, model: Path) -> None:
    settings = RunSettings(model=str(model), evaluate=SIZES, engine="vllm")
    with pytest.raises(PkeditError, match=r"cannot apply a delta.*pkedit export"):
        evaluate(settings.model_copy(update={"delta": "delta.safetensors"}), tmp_path / "run")
    with pytest.raises(PkeditError, match=r"--load-in is of the engine transformers"):
        evaluate(settings.model_copy(update={"quantisation": "4bit"}), tmp_path / "run")
    with pytest.raises(PkeditError, match="can only measure"):
        run(settings, tmp_path / "run")
    with pytest.raises(ModelLoadError, match="vLLM cannot load 'nobody/nothing'"):
        VllmEngine("nobody/nothing")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="takes a model folder"):
        VllmEngine(str(tmp_path / "model.gguf"))


@pytest.mark.usefixtures("_stand_in")
def test_a_chat_template_is_needed_and_may_be_given(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "bare", chat_template=None)
    with pytest.raises(ChatTemplateError, match="--chat-template"):
        VllmEngine(str(folder)).generate(TEXTS, max_new_tokens=2)
    template = tmp_path / "chat.jinja"
    with pytest.raises(ChatTemplateError, match="no such chat template file"):
        VllmEngine(str(folder), chat_template=template)
    template.write_text(TEMPLATE)
    assert len(VllmEngine(str(folder), chat_template=template).generate(TEXTS, max_new_tokens=2)) == 3


def test_without_vllm_the_message_says_how_to_get_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'pkedit\[vllm\]'"):
        VllmEngine(str(model))
