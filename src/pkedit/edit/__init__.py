"""Editing: the loss, the trained δ, and an edit as a value."""

from pkedit.callable import make_callable

make_callable(__name__, "pkedit.edit.editor", "edit")
