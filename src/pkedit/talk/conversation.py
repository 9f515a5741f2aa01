"""A conversation with both sides of an edit: each remembers its own answers, and both answer at the same time.

The sides take turns token by token, so that both texts grow together; on a few cores that is as fast as one after the
other, and the first words of both are there at once.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor

from pkedit.errors import TalkError
from pkedit.talk.answer import Answer, Memory
from pkedit.talk.firing import WatchedNeurons
from pkedit.talk.subject import Subject


class Side(StrEnum):
    """The model as it is, or with the edit."""

    BASE = "base"
    EDITED = "edited"


BOTH = (Side.BASE, Side.EDITED)


@dataclass
class Exchange:
    """A question and what was answered, as far as it goes; `finished`: nothing more will come."""

    question: str
    answer: str = ""
    finished: bool = False


@dataclass(eq=False)
class _Voice:
    """What one side remembers. `left_out`: exchanges at the beginning that no longer fit into a prompt."""

    exchanges: list[Exchange] = field(default_factory=list)
    memory: Memory | None = None
    fired: Tensor | None = None
    left_out: int = 0


class Conversation:
    """Asks both sides. A new question, `stop` or `reset` ends answers that are still being written.

    May be used from several threads: the last one to ask is answered.
    """

    def __init__(
        self, subject: Subject, *, limit: int = 200, strength: float = 1.0, watched: WatchedNeurons | None = None
    ) -> None:
        """A conversation without a word yet.

        Args:
            subject: the model and its edit.
            limit: tokens of an answer at most.
            strength: what the edit is multiplied by; 0 is the model as it is.
            watched: neurons to record at each prompt's end.
        """
        self._subject = subject
        self._limit = limit
        self._watched = watched
        self._voices = {side: _Voice() for side in BOTH}
        # Reentrant: Ctrl-C calls `stop` in a signal handler, on a thread that may hold it.
        self._lock = threading.RLock()
        self._latest = 0
        self._strength_set = 0.0
        self.strength = strength

    def __deepcopy__(self, memo: dict[int, Any]) -> "Conversation":
        """One without a word yet, of the same subject: whoever copies a conversation wants no second model."""
        return Conversation(self._subject, limit=self._limit, strength=self.strength, watched=self._watched)

    def set_strength(self, strength: float, moment: float) -> bool:
        """Sets the strength, unless a later choice is known already: on a network one message may overtake another.

        Args:
            strength: what the edit is multiplied by from the next answer on.
            moment: when it was chosen, on any clock that does not run backwards, from 0.

        Returns:
            Whether it was set.
        """
        with self._lock:
            if moment < self._strength_set:
                return False
            self.strength, self._strength_set = strength, moment
            return True

    def exchanges(self, side: Side) -> Sequence[Exchange]:
        """What one side was asked and has answered, the earliest first."""
        return tuple(self._voices[side].exchanges)

    def fired(self, side: Side) -> Tensor | None:
        """The watched activations at the end of the last prompt, [neurons]; None before there is one."""
        return self._voices[side].fired

    def left_out(self, side: Side) -> int:
        """How many of the earliest exchanges no longer fitted into the last prompt."""
        return self._voices[side].left_out

    def ask(self, question: str, sides: Sequence[Side] = BOTH) -> Iterator[dict[Side, str]]:
        """The answers so far, each time they have grown; the last ones are whole.

        Raises:
            TalkError: nothing was asked, or the question alone is longer than the model can read.
        """
        if not question.strip():
            raise TalkError("nothing was asked; type a question first")
        return self._answers(sides, question)

    def again(self, sides: Sequence[Side]) -> Iterator[dict[Side, str]]:
        """The last question of these sides once more, in place of their last answers; nothing where there is none."""
        return self._answers([side for side in sides if self._voices[side].exchanges], None)

    def stop(self) -> int:
        """Ends the answers that are being written; what there is of them stays. Returns the new `turn`."""
        with self._lock:
            self._latest += 1
            return self._latest

    def reset(self) -> None:
        """Forgets everything that was said."""
        with self._lock:
            self._latest += 1
            self._voices = {side: _Voice() for side in BOTH}

    @property
    def turn(self) -> int:
        """A number that changes whenever somebody asks, stops or resets."""
        return self._latest

    def _answers(self, sides: Sequence[Side], question: str | None) -> Iterator[dict[Side, str]]:
        with self._lock:
            answers = {side: self._prepared(self._voices[side], side, question) for side in sides}
            # Only now, so that a question that is refused leaves no trace.
            for side in sides:
                voice = self._voices[side]
                if question is not None:
                    voice.exchanges = [*_answered(voice.exchanges), Exchange(question)]
                else:
                    voice.exchanges[-1] = Exchange(voice.exchanges[-1].question)
                voice.memory = None
            self._latest += 1
            turn = self._latest
        return self._in_turns(answers, turn)

    def _in_turns(self, answers: dict[Side, Answer], turn: int) -> Iterator[dict[Side, str]]:
        open_sides = list(answers)
        while open_sides:
            for side in list(open_sides):
                if self._latest != turn:
                    return
                answer = answers[side]
                goes_on = answer.advance()
                with self._lock:
                    if self._latest != turn:
                        return
                    voice = self._voices[side]
                    voice.exchanges[-1].answer = answer.text if goes_on else answer.finished_text
                    voice.fired = answer.fired
                    if not goes_on:
                        voice.exchanges[-1].finished = True
                        voice.memory = answer.memory
                        open_sides.remove(side)
            yield {side: self._voices[side].exchanges[-1].answer for side in answers}

    def _prepared(self, voice: _Voice, side: Side, question: str | None) -> Answer:
        """An answer of which nothing is computed yet, to as much of the conversation as fits."""
        before = _answered(voice.exchanges) if question is not None else voice.exchanges[:-1]
        asked = question if question is not None else voice.exchanges[-1].question
        room = _positions(self._subject.chat.model)
        for left_out in range(len(before) + 1):
            prompt = self._prompt(before[left_out:], asked)
            if room is None or len(prompt) + self._limit <= room or (left_out == len(before) and len(prompt) < room):
                voice.left_out = left_out
                limit = self._limit if room is None else min(self._limit, room - len(prompt))
                strength = self.strength if side is Side.EDITED else 0.0
                return Answer(self._subject, prompt, strength, limit=limit, memory=voice.memory, watched=self._watched)
        raise TalkError(
            f"the question has {len(prompt)} tokens, and {self._subject.chat.name} reads at most {room}; shorten it"
        )

    def _prompt(self, before: Sequence[Exchange], question: str) -> list[int]:
        messages = []
        for exchange in before:
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        messages.append({"role": "user", "content": question})
        return self._subject.chat.prompt_ids(messages)


def _answered(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Without those that were stopped before the first word: templates want every question answered."""
    return [exchange for exchange in exchanges if exchange.answer]


def _positions(model: Any) -> int | None:
    """Tokens that the model can read and write, where it says so."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) else None
