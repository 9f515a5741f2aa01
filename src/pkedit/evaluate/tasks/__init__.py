"""Tasks of general ability that lm-evaluation-harness runs: one folder each, with its YAML beside its items."""
