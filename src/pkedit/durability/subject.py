"""What a condition is given, an arm of a run, and what it gives back: a model, and how to ask it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from pkedit.durability.record import DurabilitySettings
from pkedit.edit.delta import Delta
from pkedit.errors import PkeditError
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.observer import Observer
from pkedit.prompts import Attack, Conversation, Demonstration, Prompt, Splits
from pkedit.settings import RunSettings

# Puts a prompt into words: is given its number in the group, and the prompt.
Wording = Callable[[int, Prompt], str]


class NotMeasuredError(PkeditError):
    """A condition means nothing for this arm, or this model does not allow it; the message is noted in the table."""


class Ground:
    """What all arms share: the unedited model, the prompts, and what was computed once."""

    def __init__(
        self, chat: ChatModel, splits: Splits, run: RunSettings, settings: DurabilitySettings, observer: Observer
    ) -> None:
        self.chat = chat
        self.splits = splits
        self.run = run
        self.settings = settings
        self.observer = observer

    @cached_property
    def suite(self) -> Suite:
        """Unseen questions in unseen attacks and bare, harmless and borderline prompts: the run's first of each."""
        count = self.settings.prompts
        sizes = {"seen": 0, "cross": 0, "unseen": count, "harmless": count, "borderline": count, "long": 0}
        return make_suite(self.splits.test, (), (), self.run.evaluate.model_copy(update=sizes))

    @cached_property
    def attacks(self) -> dict[str, Attack]:
        """The templates of the test split by their id."""
        return {attack.id: attack for attack in self.splits.test.attacks}

    @cached_property
    def lessons(self) -> list[Demonstration]:
        """Harmless prompts of the edit split, with the unedited model's own answers. Ask while it is unedited.

        Raises:
            NotMeasuredError: it answers none of them.
        """
        prompts = self.splits.edit.harmless[: self.settings.tuning_prompts]
        with arithmetic(self.chat, self.settings.precision, cast_once=True):
            answers = self.chat.generate(
                [prompt.text for prompt in prompts],
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
                progress=self.observer.step,
            )
        found = [Demonstration(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer]
        if not found:
            raise NotMeasuredError("the unedited model answers no harmless prompt, so there is nothing to tune it on")
        return found


@dataclass(frozen=True, eq=False)
class Subject:
    """An arm about to be put under a condition. `delta`: its edit; None for the unedited model."""

    ground: Ground
    delta: Delta | None

    @property
    def chat(self) -> ChatModel:
        """The model, unedited outside of `edited`."""
        return self.ground.chat

    @property
    def settings(self) -> DurabilitySettings:
        """Of the table."""
        return self.ground.settings

    @contextmanager
    def edited(self, weight: float = 1.0) -> Generator[None]:
        """The arm's model inside, its edit multiplied by `weight`; the unedited one again afterwards, bit for bit."""
        if self.delta is None:
            yield
            return
        with (self.delta if weight == 1 else self.delta * weight).applied_to(self.chat):
            yield


def as_asked(_: int, prompt: Prompt) -> str:
    """The prompt in its own words."""
    return prompt.text


@dataclass(frozen=True, eq=False)
class Asked:
    """A model under a condition, and how it is asked.

    `wording`: the user's message. `suite`: what is asked, all of it if absent. `temperature`: of sampling; greedy if
    absent. `precision`: of the arithmetic, that of the settings if absent. `same_as_is`: whether the weights are bit
    for bit the arm's own, so that its answers need not be asked for again. `simulated`: whether what users do is only
    imitated. `note`: what has to be known.
    """

    chat: ChatModel
    wording: Wording = as_asked
    suite: Suite | None = None
    temperature: float | None = None
    precision: str | None = None
    same_as_is: bool = False
    simulated: bool = False
    note: str = ""


@dataclass(frozen=True, eq=False)
class PutOtherwise(ChatModel):
    """The same model, but a message becomes a prompt by `put`: message → token ids up to where the answer begins."""

    put: Callable[[str], Sequence[int]] = field(kw_only=True)

    def prompt_ids(self, said: Conversation) -> list[int]:
        """Token ids of a user message, the last one of a conversation."""
        return list(self.put(said if isinstance(said, str) else said[-1]["content"]))


def put_otherwise(chat: ChatModel, put: Callable[[str], Sequence[int]]) -> PutOtherwise:
    """The model with another way to put messages; nothing is copied."""
    own = {name: getattr(chat, name) for name in ChatModel.__dataclass_fields__}
    return PutOtherwise(**own, put=put)
