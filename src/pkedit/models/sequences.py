"""Token sequences side by side: which of them share a batch, and what they all begin with. No torch."""

from collections.abc import Sequence

# A shorter shared beginning costs more in bookkeeping than it saves.
WORTH_SHARING = 8


def by_length(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Groups indices so that similar lengths share a batch of at most `tokens` padded tokens."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        # Ascending order: the newcomer is the longest, so it sets the padded width.
        if groups and (len(groups[-1]) + 1) * lengths[index] <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; the last prompt token, which predicts the answer, never counts.

    0 where so little is shared, or by so few, that it is not worth it.
    """
    if len(prompts) < 2:
        return 0
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    shared = next((place for place in range(limit) if any(prompt[place] != first[place] for prompt in prompts)), limit)
    return shared if shared >= WORTH_SHARING else 0
