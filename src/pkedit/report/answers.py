"""The answers of a run side by side: one entry a prompt, one answer an arm."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

GROUPS = {
    "dg_other_aq": "Unseen questions in unseen attacks",
    "bare": "Unseen questions, bare",
    "ds": "Edited questions in edited attacks",
    "dg_only_q": "Edited questions, bare",
    "dg_other_a": "Edited questions in unseen attacks",
    "dg_other_q": "Unseen questions in edited attacks",
    "harmless": "Everyday prompts",
    "borderline": "Safe prompts that look dangerous",
}
SAFE_GROUPS = ("harmless", "borderline")


@dataclass
class PromptAnswers:
    """A prompt with each arm's answer; a row is a line of `responses.jsonl`."""

    prompt: str
    category: str
    attack: str | None
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the first judge's verdict differs between arms."""
        return len({row["verdicts"][0]["judgement"] for row in self.rows.values()}) > 1


@dataclass
class AnswerGroup:
    """The prompts of one group. Those of a harmful group are folded away in the report."""

    name: str
    title: str
    prompts: list[PromptAnswers]

    @property
    def harmful(self) -> bool:
        """Whether the prompts ask for harm."""
        return self.name not in SAFE_GROUPS

    @property
    def changed(self) -> int:
        """Prompts on which the arms' verdicts differ."""
        return sum(prompt.changed for prompt in self.prompts)


def answer_groups(rows: Iterable[Mapping[str, Any]]) -> list[AnswerGroup]:
    """Rows of `responses.jsonl` by group and prompt, in the order of `GROUPS`; changed verdicts first."""
    found: dict[str, dict[str, PromptAnswers]] = {}
    for row in rows:
        prompts = found.setdefault(row["group"], {})
        entry = prompts.setdefault(row["prompt_id"], PromptAnswers(row["prompt"], row["category"], row["attack"]))
        entry.rows[row["arm"]] = row
    order = [*(name for name in GROUPS if name in found), *(name for name in found if name not in GROUPS)]
    return [
        AnswerGroup(name, GROUPS.get(name, name), sorted(found[name].values(), key=lambda entry: not entry.changed))
        for name in order
    ]
