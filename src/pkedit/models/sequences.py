"""Token sequences side by side: which of them share a batch, and what they all begin with. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

# A shorter shared beginning costs more in bookkeeping than it saves.
WORTH_SHARING = 8


@dataclass(frozen=True)
class Stem:
    """Tokens with which several sequences begin, and the places of these."""

    tokens: tuple[int, ...]
    members: tuple[int, ...]


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


def stems(sequences: Sequence[Sequence[int]], *, least: int = 2 * WORTH_SHARING) -> list[Stem]:
    """Beginnings of at least so many tokens that two sequences or more share; each sequence has one at most.

    In alphabetical order those that begin alike stand together. The next one joins as long as that saves no fewer
    tokens than a stem without it.
    """
    order = sorted(range(len(sequences)), key=lambda place: list(sequences[place]))
    # Those that begin alike, and how many tokens they share.
    groups: list[tuple[list[int], int]] = []
    for place in order:
        members, length = groups[-1] if groups else ([], 0)
        together = min(length, _alike(sequences[members[0]], sequences[place])) if members else 0
        if together >= least and len(members) * together >= (len(members) - 1) * length:
            groups[-1] = ([*members, place], together)
        else:
            groups.append(([place], len(sequences[place])))
    return [
        Stem(tuple(sequences[members[0]][:length]), tuple(members)) for members, length in groups if len(members) > 1
    ]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
