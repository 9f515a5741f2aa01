"""Runs: resumable stages and their record."""
