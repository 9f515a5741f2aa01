"""A stream of edits: one failing prompt after another is fixed, and earlier fixes and the harm done are watched."""
