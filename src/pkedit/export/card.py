"""The model card that goes with an exported model: what was edited, how it was measured, and what that leaves open."""

import json
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.run.record import RunRecord
from pkedit.run.wording import (
    arm_name,
    causal_sentence,
    interval,
    judge_sentences,
    measured_metrics,
    metric_text,
    verdict,
)

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_card(record: RunRecord, delta: Delta, *, base: str | None = None, onto: str | None = None) -> str:
    """The README.md of an exported model, in Markdown with the Hub's front matter.

    Args:
        record: of the run.
        delta: the edit.
        base: the model whose weights carry the edit, where it is not the run's own.
        onto: what has to be known about that.
    """
    base, on_hub = _base(base or record.settings.model)
    known = f"\n{onto}\n" if onto else ""
    header = {
        "base_model": base if on_hub else None,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pkedit", "knowledge-editing", "safety"],
        "license": "apache-2.0" if base == EMBEDDED else None,
    }
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in header.items() if value is not None)
    layers = sorted({layer.layer for layer in delta.layers})
    version = record.versions.get("pkedit", "unknown")
    return f"""---
{front}
---

# {Path(base).name}, edited to refuse harmful requests

`{base}` with {len(delta)} MLP neurons edited by [Precision Knowledge Editing](https://arxiv.org/abs/2410.03772)
(pkedit {version}): {delta.parameters:,} numbers in layers {", ".join(map(str, layers))} were changed, nothing else.
{known}
{_findings(record)}

## Limits

- Judged by machines that read the answers; their errors are part of these figures, and no human read every answer.
- Answers were greedy and cut after {record.settings.evaluate.max_new_tokens} tokens; other sampling can differ.
- The attacks are fixed templates. An attack made for this model, further fine-tuning, or another language can undo the
  edit; a refused request is no proof that the knowledge is gone.
- The edit lowers a risk. It does not replace filters, monitoring or your own red-teaming.

## Licence

The licence of the base model, `{base}`, and its conditions of use apply to these weights{_licence_note(base)}.
"""


def _findings(record: RunRecord) -> str:
    if not record.metrics:
        return "This edit has not been measured."
    arms = [arm for arm in ("vanilla", "pke") if arm in record.metrics]
    lines = [
        "## Measured",
        "",
        " ".join([*verdict(record), *judge_sentences(record)]),
        "",
        "Value, 95 % interval and n. " + " ".join(f"`{arm}` is {arm_name(record, arm)}." for arm in arms),
        "",
        "| metric | " + " | ".join(arms) + " | meaning |",
        "| --- |" + " --- |" * (len(arms) + 1),
    ]
    for name in measured_metrics(record):
        cells = []
        for arm in arms:
            metric = record.metrics[arm].get(name)
            cells.append(
                "not measured"
                if metric is None
                else f"{metric_text(name).number(metric.value)} ({interval(name, metric)}, n = {metric.n})"
            )
        lines.append(f"| {metric_text(name).label} | {' | '.join(cells)} | {metric_text(name).meaning} |")
    causal = causal_sentence(record)
    return "\n".join([*lines, *(["", causal] if causal else [])])


def _base(model: str) -> tuple[str, bool]:
    """The base model's public name, and whether it is a Hub id; of a local path only the last part is told."""
    if model == "smollm2":
        return EMBEDDED, True
    path = Path(model).expanduser()
    return (path.name, False) if path.exists() or path.suffix == ".gguf" or path.is_absolute() else (model, True)


def _licence_note(base: str) -> str:
    return " (Apache-2.0)" if base == EMBEDDED else ""
