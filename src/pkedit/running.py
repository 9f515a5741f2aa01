"""How a command runs: live progress, questions before anything is lost or paid, and a stop that can be resumed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pkedit.errors import NotAgreedError, OtherRunError
from pkedit.stopping import stoppable
from pkedit.terminal import agreed, messages, prepare

if TYPE_CHECKING:
    from pkedit.run.spending import Spending
    from pkedit.run.watching import Watcher

Found = TypeVar("Found")
Bill = Callable[[], Sequence["Spending"]]


def watched(
    work: "Callable[[Watcher], Found]",
    *,
    out: Path | None = None,
    bill: Bill | None = None,
    yes: bool = False,
    verbose: bool = False,
) -> Found:
    """Loads the libraries and runs `work` with progress on standard error.

    Args:
        work: is given the observer.
        out: the run folder, for work that can be resumed there. One of another run is moved aside if the user agrees.
        bill: what remote models may cost; above a limit the user is asked first.
        yes: agrees to all of it beforehand.
        verbose: the libraries may speak for themselves.

    Raises:
        Stopped: Ctrl-C or SIGTERM.
        NotAgreedError: it may cost much, and nobody agreed.
        PkeditError: whatever `work` raises.
    """
    from pkedit.run.watching import Watcher

    def observed(part: "Callable[[Watcher], Found]") -> Found:
        with Watcher(messages(), hears=not verbose) as watcher:
            return part(watcher)

    with stoppable(out):
        with Watcher(messages(), hears=not verbose) as watcher:
            watcher.stage("start")
            prepare(verbose)
            spent = [] if bill is None else bill()
        _agree_to(spent, yes=yes)
        try:
            return observed(work)
        except OtherRunError as other:
            if not agreed(f"{other.happened}. Move that run aside and start anew?", yes=yes):
                raise
            _move_aside(other.folder)
            if bill is not None:
                # What the other run had paid for is not there any more.
                _agree_to(bill(), yes=yes)
        return observed(work)


def _agree_to(spent: "Sequence[Spending]", *, yes: bool) -> None:
    from pkedit.run.spending import ASKED_ABOVE, too_dear

    told = too_dear(spent)
    if told is not None and not agreed(f"{told}. Go on?", yes=yes):
        raise NotAgreedError(f"{told}; above ${ASKED_ABOVE:.0f} somebody has to agree: add --yes, or ask less")


def _move_aside(folder: Path) -> None:
    from pkedit.run.folder import move_aside

    target = move_aside(folder)
    messages().print(f"{folder} was moved to {target}", highlight=False, markup=False, soft_wrap=True)
