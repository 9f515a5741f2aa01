"""Chooses an edit's trade-off: searches settings on the select split, then measures one of them on the test split."""

# The run folder of the chosen settings, inside the folder of the search.
CHOSEN = "chosen"
