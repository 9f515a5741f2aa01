"""Editing: the loss, the trained δ, and an edit as a value."""
