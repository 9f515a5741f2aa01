"""Whom long work tells how far it is."""

from typing import Protocol


class Observer(Protocol):
    """What work of several stages tells whoever watches it."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage; a total of 0 is one that is not known."""


class Silent:
    """An observer that looks away."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""
