"""Measures what locating, editing and answering cost beside the least that each could cost on the same machine.

One file per stage, listed in `stages.py`. Each runs the thing and its floor one after the other, several times.
"""
