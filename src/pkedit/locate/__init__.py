"""Locating: one file per signal, a region that combines them, and the causal check."""
