"""Settings of a run that takes a second or two with a tiny model; tests change what they are about."""

from typing import Any

SMALL: dict[str, Any] = {
    "pairs": 6,
    "demonstrations": 6,
    "sampled_tokens": 4,
    "locate": {"pairs": 4, "demonstrations": 4, "neurons": 3, "tokens": 4, "random_regions": 2, "causal_pairs": 2},
    "edit": {
        **{"steps": 2, "pairs_per_step": 2, "demonstrations_per_step": 2, "safe_tokens": 4, "harmless_tokens": 4},
        # A random model refuses nothing at any strength. Its first word says so as well as twelve, and any will do.
        **{"strength_tokens": 1, "strength_target": 1.0},
    },
}
