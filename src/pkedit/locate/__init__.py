"""Locating: one file per signal, a region that combines them, and the causal check."""

from pkedit.callable import make_callable

make_callable(__name__, "pkedit.locate.locating", "locate")
