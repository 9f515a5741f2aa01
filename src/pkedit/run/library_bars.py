"""Hears what the libraries' own progress bars count, instead of letting them draw: downloads, weights, task items."""

import io
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

# Called with what is done, what there is in all (0: unknown) and what the bar calls it.
Heard = Callable[[int, int, str], None]
MEGABYTE = 1_000_000


@contextmanager
def heard_bars(hear: Heard) -> Generator[None]:
    """Meanwhile every bar of tqdm, switched off or not, draws nothing and tells `hear`; of several, the newest.

    Bytes are told in megabytes.
    """
    from tqdm.std import tqdm

    running: list[Any] = []
    usual = {name: getattr(tqdm, name) for name in ("__init__", "display", "close")}

    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        # A width of its own: tqdm would ask the stream for one.
        usual["__init__"](self, *arguments, **{**options, "disable": False, "file": io.StringIO(), "ncols": 80})

    def display(self: Any, *_: Any, **__: Any) -> None:
        if self not in running:
            running.append(self)
        if self is running[-1]:
            size = MEGABYTE if self.unit == "B" else 1
            name = f"{self.desc or ''}{', MB' if self.unit == 'B' else ''}"
            hear(int(self.n // size), int((self.total or 0) // size), name)

    def close(self: Any) -> None:
        usual["close"](self)
        if self in running:
            running.remove(self)
            if not running:
                # What comes next is not counted: a bar that stays full would say that all is done.
                hear(0, 0, "")

    try:
        for name, replacement in {"__init__": begin, "display": display, "close": close}.items():
            setattr(tqdm, name, replacement)
        yield
    finally:
        for name, original in usual.items():
            setattr(tqdm, name, original)


def wake_bars() -> None:
    """Has transformers make bars again, where it is loaded and was told to make none."""
    logging = sys.modules.get("transformers.utils.logging")
    if logging is not None:
        logging.enable_progress_bar()
