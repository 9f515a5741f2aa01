"""Whom an export tells how far it is."""

from typing import Protocol


class Observer(Protocol):
    """As a run has it: stages, and steps within them."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the stage."""


class Unwatched:
    """An observer that looks away."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""
