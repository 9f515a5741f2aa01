"""A cut between two decoder layers: what goes through it is recorded once, and later passes begin there."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from pkedit.models.hooks import outputs_of, skipped_blocks


class Cut:
    """The layers `below` are run by a recorded pass, and jumped over by others.

    Some models' layers return their states alone, some as the first of a tuple; the recorded pass finds out which.
    """

    def __init__(self, below: Sequence[nn.Module]) -> None:
        self.below = below
        self._as_tuple = False

    @contextmanager
    def recorded(self) -> Generator[list[Tensor]]:
        """A list that receives the states which leave the layers below, [rows, tokens, hidden], one for each pass."""
        seen: list[Tensor] = []

        def receive(_: int, output: Tensor | tuple[Tensor, ...]) -> None:
            self._as_tuple = isinstance(output, tuple)
            seen.append(output[0] if isinstance(output, tuple) else output)

        with outputs_of(self.below[-1:], receive):
            yield seen

    @contextmanager
    def entered(self, states: Tensor | None) -> Generator[None]:
        """Passes made inside begin at the cut, from these states."""
        with skipped_blocks(self.below, states, as_tuple=lambda: self._as_tuple):
            yield

    @contextmanager
    def ending(self, above: Sequence[nn.Module]) -> Generator[None]:
        """Passes made inside jump over the layers above, as where only the states at the cut are wanted.

        Without a layer below the cut they run all the same: nothing has told what layers return, tensors or tuples.
        """
        with skipped_blocks(above if self.below else (), None, as_tuple=lambda: self._as_tuple):
            yield
