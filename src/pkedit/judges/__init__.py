"""Judges: say whether an answer refuses, complies or babbles."""

from pkedit.judges.base import Judge, Judgement, Verdict

__all__ = ["Judge", "Judgement", "Verdict"]
