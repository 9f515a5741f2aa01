"""A run folder as if vanilla, a random region and PKE had been measured, and readers of the page made from it."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pkedit.run.record import EditRecord, RecordedComparison, RecordedMetric, RecordedVerdict, RunRecord, StageRecord
from pkedit.settings import RunSettings

VOID = {"meta", "link", "br", "hr", "img", "input"}
ATTACKED, BARE = "dg_other_aq", "bare"


class Outline(HTMLParser):
    """Checks nesting, and collects tags with their attributes and the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        """All that is shown."""
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


def metric(value: float, n: int = 72, *, half: float = 0.05) -> RecordedMetric:
    return RecordedMetric(value=value, n=n, low=value - half, high=value + half)


def response(
    arm: str, group: str, identifier: str, judgement: str, answer: str = "an answer", **changes: Any
) -> dict[str, Any]:
    return {
        "arm": arm,
        "group": group,
        "prompt_id": identifier,
        "category": "test",
        "attack": "a01" if group == ATTACKED else None,
        "prompt": f"prompt {identifier}",
        "answer": answer,
        "verdicts": [{"judge": "rules", "version": "1", "judgement": judgement, "reason": "because"}],
        **changes,
    }


def usual_responses() -> list[dict[str, Any]]:
    return [
        response(arm, group, identifier, judgement)
        for group, identifier in ((ATTACKED, "h1"), (BARE, "h1"), ("harmless", "s1"))
        for arm, judgement in (("vanilla", "harmful"), ("pke", "refused"))
    ]


def write_responses(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "responses.jsonl").write_text(lines, encoding="utf-8")


def record(**changes: Any) -> RunRecord:
    history = [{"step": step, "safe": 1 / (step + 1), "unsafe": 0.0, "harmless": 0.1} for step in range(4)]
    whole = RunRecord(
        settings=RunSettings(model="someone/model"),
        command="pkedit run --neurons 2",
        versions={"pkedit": "0.1.0"},
        hardware={"cores": 2, "memory": 8 * 2**30},
        stages={"measure pke": StageRecord(seconds=3, peak_memory=2**30)},
        metrics={
            arm: {
                "asr": metric(asr),
                "over_refusal": metric(refusal, 96),
                "borderline_refusal": metric(borderline, 71),
                "kl": metric(kl, 96, half=0.01),
            }
            for arm, asr, refusal, borderline, kl in (
                ("vanilla", 0.9, 0.05, 0.01, 0.0),
                ("random", 0.3, 0.2, 0.4, 0.2),
                ("pke", 0.1, 0.1, 0.3, 0.1),
            )
        },
        comparisons=[
            RecordedComparison(metric="asr", arm="pke", against="vanilla", difference=metric(-0.8), p_value=0.00001),
            RecordedComparison(metric="asr", arm="random", against="pke", difference=metric(0.2), p_value=0.01),
        ],
        verdicts={"pke": RecordedVerdict(outcome="safer but over-refusing", reasons=["over_refusal rose by 5 points"])},
        edits={
            "pke": EditRecord(neurons=2, share_of_neurons=0.01, parameters=64, layers=[1], stopped_early=False,
                              history=history)
        },
        causal={
            "effect": 0.4, "harmless_effect": 0.1, "random": [0.1, 0.2], "random_harmless": [0.0], "beyond_all": True,
        },
    )  # fmt: skip
    return whole.model_copy(update=changes)


def region() -> dict[str, Any]:
    neurons = [{"layer": 1, "index": index, "score": 0.9, "ranks": {"pathway": 1.0}, "values": {}} for index in (3, 5)]
    totals = {"pathway": [0.0, -1.0, 0.5], "utility": [1.0, 2.0, 0.5]}
    return {"neurons": neurons, "signals": {"pathway": 1.0}, "layer_totals": totals, "layer_weight_change": [1, 2, 3]}


def pathway() -> dict[str, Any]:
    neurons = [
        {"id": f"neuron.{layer}.{index}", "kind": "neuron", "layer": layer, "expert": None, "index": index,
         "contribution": 0.01, "edited": edited}
        for layer, index, edited in ((1, 3, True), (1, 5, True), (2, 7, False))
    ]  # fmt: skip
    return {
        "schema_version": 1,
        "pairs": 4,
        "note": "Means over the pairs.",
        "layers": 3,
        "attention": [0.1, -0.2, 0.0],
        "mlp": [0.3, 0.0, -0.1],
        "nodes": [
            {"id": "prompt", "kind": "prompt"},
            {"id": "attention.0", "kind": "attention", "layer": 0, "contribution": -0.02},
            *neurons,
            {"id": "unsafe", "kind": "unsafe", "words": ["Sure", " Here"]},
        ],
        "edges": [
            {"from": "prompt", "to": "neuron.1.3", "weight": 0.01},
            {"from": "attention.0", "to": "neuron.1.5", "weight": -0.004},
            {"from": "neuron.1.3", "to": "neuron.2.7", "weight": 0.002},
            {"from": "neuron.2.7", "to": "unsafe", "weight": 0.03},
        ],
    }


def words() -> dict[str, Any]:
    neuron = {"layer": 1, "expert": None, "index": 3, "score": 0.9, "change": 0.31}
    return {"schema_version": 1, "note": "By the logit lens.",
            "neurons": [{**neuron, "before": ["kept", "lost"], "after": ["kept", "won"]}]}  # fmt: skip


def tune() -> dict[str, Any]:
    trials = [
        {"number": number, "settings": {"locate.neurons": 64 + number}, "asr": metric(asr).model_dump(),
         "over_refusal": metric(asr / 2).model_dump(), "borderline_refusal": metric(asr / 3).model_dump(),
         "kl": metric(0.1 - asr / 10, half=0.01).model_dump(), "seconds": 80.1, "front": number < 2,
         "chosen": number == 1}
        for number, asr in enumerate((0.1, 0.2, 0.4))
    ]  # fmt: skip
    return {"schema_version": 1, "model": "someone/model", "split": "select", "trials": trials}


def make_run(folder: Path, *, rows: Sequence[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A finished run with every file that the report reads but `tune.json`."""
    record(**changes).save(folder)
    for name, content in (("region", region()), ("pathway", pathway()), ("words", words())):
        (folder / f"{name}.json").write_text(json.dumps(content))
    write_responses(folder, usual_responses() if rows is None else rows)
    return folder
