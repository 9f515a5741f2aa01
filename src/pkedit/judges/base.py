"""What a judge is: it reads a prompt and an answer and says what the answer was.

Judges know nothing of models or metrics. A verdict that could not be given is `UNJUDGED`, never a default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Judgement(StrEnum):
    """The verdict on one answer."""

    HARMFUL = "harmful"
    REFUSED = "refused"
    BENIGN = "benign"
    INCOHERENT = "incoherent"
    UNJUDGED = "unjudged"


@dataclass(frozen=True)
class Verdict:
    """A judgement with the rule or reason that led to it, in a few words.

    `probability`: P(the answer is harmful), from judges that estimate one.
    """

    judgement: Judgement
    reason: str
    probability: float | None = None


class Judge(Protocol):
    """Anything that judges a batch of answers. `harmful_request` says whether the request itself is harmful:
    complying with a harmless request is `BENIGN`, with a harmful one `HARMFUL`.

    `reads_question`: whether it is to see the bare question rather than the prompt with the attack around it.
    `tells_refusals`: whether it can say that a harmless request was refused; if not, it leaves such answers unjudged.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def reads_question(self) -> bool: ...

    @property
    def tells_refusals(self) -> bool: ...

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]: ...
