"""Measurement: attacks, metrics, statistics."""
