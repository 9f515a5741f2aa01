"""A saved model is measured through vLLM. A stand-in takes its place here, with the calls that pkedit makes of it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pkedit.cli import main
from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.errors import ChatTemplateError, ModelLoadError, PkeditError
from pkedit.export.adapter import load_adapter, write_adapter
from pkedit.models import load_model
from pkedit.models.vllm_adapter import RANKS, vllm_adapter
from pkedit.models.vllm_engine import VllmEngine
from pkedit.run.evaluation import evaluate
from pkedit.run.pipeline import run
from pkedit.run.record import RunRecord
from pkedit.settings import EvaluateSettings, RunSettings
from tiny import TEMPLATE, save_chat

SIZES = EvaluateSettings(
    seen=1, cross=1, unseen=3, harmless=2, long=1, borderline=2, max_new_tokens=8, judges=("rules",), capability=()
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


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """Answers greedily, one prompt after the other, as vLLM's class of this name is called.

    Of an adapter's configuration it reads what vLLM reads: one rank and one alpha for all matrices.
    """

    def __init__(
        self,
        *,
        model: str,
        tokenizer: str,
        dtype: str,
        trust_remote_code: bool,
        seed: int,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        assert tokenizer == model
        assert max_lora_rank in RANKS
        self._source, self._rank = model, max_lora_rank if enable_lora else 0
        self._base: Any = AutoModelForCausalLM.from_pretrained(model)

    def _with(self, request: LoRARequest | None) -> Any:
        if request is None:
            return self._base
        config = json.loads((Path(request.lora_path) / "adapter_config.json").read_text())
        if config["r"] > self._rank:
            raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {self._rank}.")
        weights = load_file(Path(request.lora_path) / "adapter_model.safetensors")
        model: Any = AutoModelForCausalLM.from_pretrained(self._source)
        with torch.no_grad():
            for name, a in weights.items():
                if not name.endswith(".lora_A.weight"):
                    continue
                b = weights[name.replace("lora_A", "lora_B")]
                module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += config["lora_alpha"] / config["r"] * (b @ a)
        return model

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        params: SamplingParams,
        *,
        use_tqdm: bool,
        lora_request: LoRARequest | None = None,
    ) -> Any:
        assert params.temperature == 0.0
        self._model = self._with(lora_request)
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
    lora: Any = ModuleType("vllm.lora.request")
    lora.LoRARequest = LoRARequest
    monkeypatch.setitem(sys.modules, "vllm.lora", ModuleType("vllm.lora"))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", lora)


def write_edit(model: Path, folder: Path) -> tuple[Path, Delta]:
    """An adapter of one to two neurons in each layer, and the edit that it is."""
    chat, layers = load_model(str(model)), []
    generator = torch.Generator().manual_seed(0)
    for number, site in enumerate(chat.sites):
        neurons = torch.tensor([3, 7][: number + 1])
        original = {part: vectors(site, part)[neurons].clone() for part in ("write", "read0")}
        change = {part: 3 * torch.randn(value.shape, generator=generator) for part, value in original.items()}
        layers.append(LayerDelta(number, neurons, change, original))
    delta = Delta(tuple(layers))
    folder.mkdir()
    write_adapter(delta, chat, folder, base="tiny")
    return folder, delta


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
def test_an_adapter_answers_as_the_edit_does_and_the_base_stays_what_it_is(tmp_path: Path, model: Path) -> None:
    adapter, delta = write_edit(model, tmp_path / "adapter")
    engine = VllmEngine(str(model), adapter=adapter)
    chat = load_model(str(model))
    base = chat.generate(TEXTS, max_new_tokens=6)
    with delta.applied_to(chat):
        edited = chat.generate(TEXTS, max_new_tokens=6)
    assert base != edited
    assert engine.generate(TEXTS, max_new_tokens=6, edited=True) == edited
    assert engine.generate(TEXTS, max_new_tokens=6) == base
    assert engine.reason == "vLLM 0.0 (stand-in), dtype auto, adapter adapter"


@pytest.mark.usefixtures("_stand_in")
def test_evaluate_measures_the_base_and_the_adapter(tmp_path: Path, model: Path) -> None:
    adapter, _ = write_edit(model, tmp_path / "adapter")
    settings = tmp_path / "settings.json"
    settings.write_text(RunSettings(evaluate=SIZES).model_dump_json())
    command = ["evaluate", str(model), "--settings", str(settings), "--engine", "vllm", "--adapter", str(adapter)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--out", str(tmp_path / "vllm")])
    assert not stop.value.code
    record = RunRecord.load(tmp_path / "vllm")
    assert record.metrics.keys() == {"vanilla", "pke"}
    assert "rouge_l" in record.metrics["pke"]
    assert any(row.metric == "asr" and row.arm == "pke" for row in record.comparisons)
    rows = [json.loads(line) for line in (tmp_path / "vllm" / "responses.jsonl").read_text().splitlines()]
    answers = {arm: [row["answer"] for row in rows if row["arm"] == arm] for arm in ("vanilla", "pke")}
    assert len(answers["vanilla"]) == len(answers["pke"])
    assert answers["vanilla"] != answers["pke"]
    assert record.settings.adapter == str(adapter)


def test_ranks_and_scales_that_differ_become_one_without_a_change(tmp_path: Path, model: Path) -> None:
    source, _ = write_edit(model, tmp_path / "source")
    config = json.loads((source / "adapter_config.json").read_text())
    assert config["rank_pattern"]
    # Half the strength in one layer, and by another rule than alpha over rank.
    changed = {**config, "alpha_pattern": {"model.layers.0.mlp.down_proj": 0.5}, "use_rslora": True}
    (source / "adapter_config.json").write_text(json.dumps(changed))
    padded = tmp_path / "padded"
    padded.mkdir()
    assert vllm_adapter(source, padded) == 8
    config = json.loads((padded / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (2, 2, {}, {})
    weights = load_file(padded / "adapter_model.safetensors")
    assert {len(weight) for name, weight in weights.items() if "lora_A" in name} == {2}
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        first, second = (
            load_adapter(AutoModelForCausalLM.from_pretrained(model), folder)(ids).logits for folder in (source, padded)
        )
    torch.testing.assert_close(first, second)


def test_an_adapter_that_vllm_cannot_apply_is_refused_by_name(tmp_path: Path, model: Path) -> None:
    source, _ = write_edit(model, tmp_path / "source")
    whole = json.loads((source / "adapter_config.json").read_text())
    weights = load_file(source / "adapter_model.safetensors")

    def refused(message: str, folder: Path = source, **changed: Any) -> None:
        (source / "adapter_config.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(ModelLoadError, match=message):
            vllm_adapter(folder, tmp_path)

    refused("holds no PEFT adapter", folder=model)
    refused("one of IA3", peft_type="IA3")
    refused(r"changes packed experts.*pkedit export --as full", target_parameters=["mlp.experts.down_proj"])
    refused("cannot apply an adapter with use_dora", use_dora=True)
    large = {name: weight.new_zeros(600, 600) for name, weight in weights.items()}
    save_file(large, source / "adapter_model.safetensors")
    refused(r"has rank 600, and vLLM takes at most 512; save the edited model")
    save_file({**weights, "model.embed.weight": torch.zeros(2)}, source / "adapter_model.safetensors")
    refused("more than pairs of LoRA matrices")
    (source / "adapter_model.safetensors").write_bytes(b"nonsense")
    refused("the adapter is damaged")


@pytest.mark.usefixtures("_stand_in")
def test_what_vllm_says_of_an_adapter_is_passed_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, _ = write_edit(model, tmp_path / "adapter")
    engine = VllmEngine(str(model), adapter=adapter)

    def refuse(*_: Any) -> None:
        raise ValueError("expected target modules in {'q_proj'}\nbut received others")

    monkeypatch.setattr(LLM, "_with", refuse)
    with pytest.raises(ModelLoadError, match=r"cannot apply the adapter to .*: expected target modules in"):
        engine.generate(TEXTS, max_new_tokens=2, edited=True)
    settings = RunSettings(model=str(model), evaluate=SIZES, adapter=str(adapter))
    with pytest.raises(PkeditError, match="--adapter goes with --engine vllm"):
        evaluate(settings, tmp_path / "run")


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
