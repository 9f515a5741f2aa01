"""The answers of a run side by side: one entry a prompt, one answer an arm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import escape

from pkedit.errors import RunFolderError

GROUPS = {
    "dg_other_aq": "Unseen questions in unseen attacks",
    "bare": "Unseen questions, bare",
    "ds": "Edited questions in edited attacks",
    "dg_only_q": "Edited questions, bare",
    "dg_other_a": "Edited questions in unseen attacks",
    "dg_other_q": "Unseen questions in edited attacks",
    "borderline": "Safe prompts that look dangerous",
    "harmless": "Everyday prompts",
    "long": "Everyday prompts of many lines",
}
SAFE_GROUPS = ("harmless", "long", "borderline")
# The page stays below 3 MB with all else that is on it.
MOST_BYTES = 2_000_000
MOST_CHARACTERS = 6000
# Of the tags around an answer and around a prompt.
ANSWER_TAGS, PROMPT_TAGS = 330, 700


@dataclass(frozen=True)
class Said:
    """A judge's verdict on an answer."""

    judge: str
    version: str
    judgement: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What one arm answered, with the verdicts of all judges, the first one's counting most."""

    arm: str
    text: str
    verdicts: tuple[Said, ...]

    @property
    def judgement(self) -> str:
        """The first judge's."""
        return self.verdicts[0].judgement if self.verdicts else "unjudged"


@dataclass
class PromptAnswers:
    """A prompt with each arm's answer."""

    group: str
    prompt: str
    category: str
    attack: str | None
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the first judge's verdict differs between arms."""
        return len({answer.judgement for answer in self.answers.values()}) > 1

    @property
    def harmful(self) -> bool:
        """Whether the prompt asks for harm; it is then folded away."""
        return self.group not in SAFE_GROUPS

    @property
    def size(self) -> int:
        """About how many bytes of the page it takes."""
        texts = [self.prompt, *(answer.text for answer in self.answers.values())]
        texts += [f"{one.version}{one.reason}" for answer in self.answers.values() for one in answer.verdicts]
        written = sum(len(escape(text[:MOST_CHARACTERS]).encode()) for text in texts)
        # A safe prompt stands in its heading alone; verdicts also stand there, and each judge has a line.
        judges = sum(len(answer.verdicts) for answer in self.answers.values())
        return written + PROMPT_TAGS + ANSWER_TAGS * len(self.answers) + 70 * judges


@dataclass
class AnswerGroup:
    """The prompts of one group, those first on which verdicts differ. `left_out`: prompts with no room on the page."""

    name: str
    title: str
    prompts: list[PromptAnswers]
    left_out: int = 0

    @property
    def changed(self) -> int:
        """Prompts on which the arms' verdicts differ."""
        return sum(prompt.changed for prompt in self.prompts)


def prompt_answers(rows: Iterable[Mapping[str, Any]]) -> list[PromptAnswers]:
    """One entry for every prompt of every group, in the order of the file.

    Raises:
        RunFolderError: a row lacks something.
    """
    found: dict[tuple[str, str], PromptAnswers] = {}
    for row in rows:
        try:
            group, attack = str(row["group"]), row["attack"]
            answer = Answer(
                str(row["arm"]),
                str(row["answer"]),
                tuple(
                    Said(*(str(one[name]) for name in ("judge", "version", "judgement", "reason")))
                    for one in row["verdicts"]
                ),
            )
            entry = PromptAnswers(
                group, str(row["prompt"]), str(row["category"]), None if attack is None else str(attack)
            )
            found.setdefault((group, str(row["prompt_id"])), entry).answers[answer.arm] = answer
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"responses.jsonl: damaged (a row without {error}); remove the run folder and run again"
            ) from None
    return list(found.values())


def answer_groups(entries: Sequence[PromptAnswers], *, most_bytes: int = MOST_BYTES) -> list[AnswerGroup]:
    """Prompts by group, in the order of `GROUPS`, changed verdicts first; as many as the page has room for.

    Each group has a share of the room by its own size.
    """
    found: dict[str, list[PromptAnswers]] = {}
    for entry in entries:
        found.setdefault(entry.group, []).append(entry)
    whole = sum(entry.size for entry in entries)
    share = min(1.0, most_bytes / whole) if whole else 1.0
    groups = []
    for name in [*(name for name in GROUPS if name in found), *(name for name in found if name not in GROUPS)]:
        ordered = sorted(found[name], key=lambda entry: not entry.changed)
        room = share * sum(entry.size for entry in ordered) if share < 1 else float("inf")
        kept: list[PromptAnswers] = []
        for entry in ordered:
            room -= entry.size
            if room < 0:
                break
            kept.append(entry)
        groups.append(AnswerGroup(name, GROUPS.get(name, name), kept, len(ordered) - len(kept)))
    return groups
