"""Measurement: attacks, metrics, statistics."""

from pkedit.callable import make_callable

make_callable(__name__, "pkedit.evaluate.measure", "measure")
