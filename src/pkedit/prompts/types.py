"""The nouns of the prompt side: a prompt, an attack template, a contrast pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

# A user's message, or a conversation that ends with one: each of its messages has a `role` and `content`.
Conversation = str | Sequence[Mapping[str, str]]
# A user's message and its answer.
Turn = tuple[str, str]


def behind(turns: Sequence[Turn], text: str) -> Conversation:
    """A user's message behind earlier turns."""
    said = [message for turn in turns for message in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": content} for role, content in (*said, ("user", text))]


# What prompts are split for: locating and editing, choosing, and the reported numbers.
SPLITS = ("edit", "select", "test")


# The category of everyday prompts of many lines. Attacks are long too, so an edit that never saw such prompts takes
# length for harm; they are learnt from, and measured, by themselves.
LONG = "long"


class Kind(StrEnum):
    """What a prompt asks for: harm, everyday help, or safe help that looks dangerous."""

    HARMFUL = "harmful"
    HARMLESS = "harmless"
    BORDERLINE = "borderline"


@dataclass(frozen=True)
class Prompt:
    """One user message, behind the turns `before` it if there are any.

    `question` is the bare request; `text` is what the model sees: the question itself, or the question
    inside the attack template named by `attack`. `topic` and `better` fill the refusal phrasings. `split` is the only
    split that it may go into; without one it is dealt into any.
    """

    id: str
    question: str
    text: str
    kind: Kind
    category: str = "other"
    attack: str | None = None
    topic: str = "that request"
    better: str = "a safe alternative"
    split: str | None = None
    before: tuple[Turn, ...] = ()

    @property
    def conversation(self) -> Conversation:
        """What the model is given: the message, or all messages where there are earlier ones."""
        return behind(self.before, self.text) if self.before else self.text

    @property
    def characters(self) -> int:
        """Of all messages."""
        return len(self.text) + sum(len(said) for turn in self.before for said in turn)


# Of attack templates from a file that names none.
NO_FAMILY = "other"


@dataclass(frozen=True)
class Attack:
    """A jailbreak template. `text` holds `{question}` or one of its disguises (see `fill`)."""

    id: str
    family: str
    text: str

    def fill(self, question: str) -> str:
        """The question inside this template, in the disguises that the template asks for."""
        words = question.split()
        middle = (len(words) + 1) // 2
        disguises = {
            "{question_spaced}": " ".join(question.replace(" ", "_")),
            "{question_leet}": question.translate(str.maketrans("aeiostAEIOST", "431057431057")),
            "{question_upper}": question.upper(),
            "{question_first}": " ".join(words[:middle]),
            "{question_second}": " ".join(words[middle:]),
            "{question}": question,
        }
        filled = self.text
        for placeholder, value in disguises.items():
            filled = filled.replace(placeholder, value)
        return filled

    def apply(self, prompt: Prompt) -> Prompt:
        """The same question, asked through this attack."""
        return replace(prompt, id=f"{prompt.id}+{self.id}", text=self.fill(prompt.question), attack=self.id)


@dataclass(frozen=True)
class ContrastPair:
    """A harmful prompt x with a safe answer y⁺ and an unsafe answer y⁻ (an opening, or the model's own words)."""

    prompt: Prompt
    safe: str
    unsafe: str


@dataclass(frozen=True)
class Demonstration:
    """A safe prompt with an answer worth keeping, usually the original model's own."""

    prompt: Prompt
    answer: str
