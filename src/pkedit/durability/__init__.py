"""Does an edit last? An arm of a finished run is asked again under what users do to a model, and how they ask it."""
