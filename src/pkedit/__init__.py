"""Precision Knowledge Editing for open-weight chat models."""
