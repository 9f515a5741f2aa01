"""Export: an edit in a form that other tools load."""
