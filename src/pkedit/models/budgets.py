"""How many padded tokens share a pass on each kind of device, from how many are asked for. No torch.

A processor waits for memory, a GPU for its next kernel: there a pass of twice the tokens often takes no longer.
"""

# Where an answer alone is run behind a prompt that was read, a prompt token costs only its keys and values: so many fit
# where one token that is computed does.
FROZEN_TOKENS = {"cpu": 6, "cuda": 16}
# What is only read needs no memory for a way back; on a processor memory costs time.
READ_TOKENS = {"cpu": 1, "cuda": 4}
# Two dialogues of 500 tokens share a pass of the default size, which takes 23 GB with a model of 8 billion weights.
TRACED_TOKENS = {"cpu": 1, "cuda": 1.25}
# Places for prompts and answers side by side while answers are written, padding included: each takes memory for its
# keys and values in every layer, 46 kB with the embedded model, 131 kB with Llama 3 8B in bfloat16.
WRITTEN_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 17}
# Bytes of what layers below an edit gave for prompts, kept while the edit is tried or measured. The 370 prompts of a
# run take half of it with the embedded model; a large model that would take more does not run out of memory for it.
REMEMBERED_BYTES = 1 << 30


def frozen(tokens: int, kind: str) -> int:
    """Tokens, those of the prompts included, in a pass over the answers alone."""
    return tokens * FROZEN_TOKENS.get(kind, FROZEN_TOKENS["cpu"])


def read(tokens: int, kind: str) -> int:
    """Tokens in a pass without gradient."""
    return tokens * READ_TOKENS.get(kind, READ_TOKENS["cpu"])


def written(kind: str) -> int:
    """Tokens, those of the prompts included, in a batch of answers that are written together."""
    return WRITTEN_TOKENS.get(kind, WRITTEN_TOKENS["cpu"])


def traced(tokens: int, kind: str) -> int:
    """Tokens in a pass there and back."""
    return int(tokens * TRACED_TOKENS.get(kind, TRACED_TOKENS["cpu"]))
