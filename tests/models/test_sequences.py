"""Which sequences share a beginning that is worth reading once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkedit.models.sequences import Stem, stems


def test_sequences_that_begin_alike_have_a_stem_whatever_their_order() -> None:
    first, second = list(range(10)), list(range(20, 40))
    sequences = [[*first, 1], [7], [*second, 2, 3], [*first, 4, 5], [*second], [*first, 1, 1]]
    assert stems(sequences, least=8) == [Stem(tuple(first), (0, 5, 3)), Stem(tuple(second), (4, 2))]


def test_what_is_too_short_or_stands_alone_is_no_stem() -> None:
    assert stems([], least=3) == []
    assert stems([[1, 2, 3, 4]], least=3) == []
    assert stems([[1, 2, 3], [1, 2, 4]], least=3) == []


def test_a_longer_stem_of_fewer_is_kept_where_a_shorter_one_of_more_saves_less() -> None:
    long = list(range(30))
    # Two save 30 tokens; three that share 10 save 20.
    assert stems([[*long, 1], [*long, 2], [*long[:10], 99]], least=5) == [Stem(tuple(long), (0, 1))]
    assert stems([[*long[:16], 1], [*long[:16], 2], [*long[:10], 99]], least=5) == [Stem(tuple(long[:10]), (0, 1, 2))]


@given(st.lists(st.lists(st.integers(0, 1), max_size=8), max_size=12), st.integers(1, 4))
def test_members_begin_with_their_stem_and_have_one_at_most(sequences: list[list[int]], least: int) -> None:
    found = stems(sequences, least=least)
    placed = [place for stem in found for place in stem.members]
    assert len(set(placed)) == len(placed)
    for stem in found:
        assert len(stem.members) > 1
        assert len(stem.tokens) >= least
        for place in stem.members:
            assert tuple(sequences[place][: len(stem.tokens)]) == stem.tokens


@pytest.mark.parametrize("count", [2, 5])
def test_equal_sequences_are_their_own_stem(count: int) -> None:
    assert stems([[1, 2, 3]] * count, least=3) == [Stem((1, 2, 3), tuple(range(count)))]
