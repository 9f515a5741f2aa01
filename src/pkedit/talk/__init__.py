"""Trying an edit: the model as it is and the edited one side by side, in the terminal or on a local page."""
