"""One edit after another: each is learnt on the model with the earlier ones in it, and kept as a change of the base.

Were each learnt on the unedited model instead, none would know what the others do already, and their sum would do it
many times over. The harmless answers are those of the unedited model, read once: KL is to it, however long the stream.
Training ends beyond what the instance needs, and what is beyond adds up over a stream: so δ is scaled back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pkedit.edit.delta import Delta
from pkedit.edit.editor import StepLosses
from pkedit.edit.instance import InstanceEditor
from pkedit.models.chat import ChatModel
from pkedit.prompts import ContrastPair, Demonstration
from pkedit.stream.settings import StreamSettings
from pkedit.stream.sums import on_base

# Multiples of δ that may be chosen, beside δ itself.
STRENGTHS = (0.2, 0.35, 0.5, 0.7)
# Whether the instance is refused by the model with these edits in it.
Refused = Callable[[Delta], bool]


@dataclass(frozen=True)
class Fix:
    """One edit, a delta of the unedited model. `met`: the safe answer became likely enough before the last of `steps`.

    `strength`: what δ was multiplied by.
    """

    delta: Delta
    steps: int
    met: bool
    strength: float


class Fixer:
    """Edits one model on one instance after another. Make it while the model is unedited."""

    def __init__(self, chat: ChatModel, kept: Sequence[Demonstration], settings: StreamSettings) -> None:
        self._chat = chat
        self._editor = InstanceEditor(chat, kept, settings.locate, settings.edit)

    def fix(
        self,
        pair: ContrastPair,
        earlier: Delta,
        refused: Refused,
        progress: Callable[[StepLosses, int], None] | None = None,
    ) -> Fix:
        """Learns an edit on top of the earlier ones, as strong as it has to be; the model leaves unedited.

        Args:
            pair: the prompt, the answer to give and the answer to avoid.
            earlier: the sum of the edits that are in the model.
            refused: says of a sum of edits whether the instance is then refused.
            progress: called after every step.

        Raises:
            NonFiniteLossError: a loss became NaN or Inf.
        """
        with earlier.applied_to(self._chat):
            result = self._editor.edit(pair, progress=progress)
        delta = on_base(self._chat, result.delta)
        strength = enough_strength(delta, earlier, refused)
        return Fix(delta * strength, len(result.history), result.stopped_early, strength)


def enough_strength(delta: Delta, earlier: Delta, refused: Refused) -> float:
    """The one above the smallest of `STRENGTHS` at which the instance is refused, by bisection; 1 where none is above.

    At the smallest itself a fix has no margin, and one of the next edits undoes it.
    """
    low, high = 0, len(STRENGTHS)
    while low < high:
        middle = (low + high) // 2
        if refused(earlier + delta * STRENGTHS[middle]):
            high = middle
        else:
            low = middle + 1
    return (*STRENGTHS, 1.0, 1.0)[low + 1]
