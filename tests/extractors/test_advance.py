"""What loops say of how far they have come, and who hears it."""

from itertools import pairwise

import pytest

from extractors.advance import advance, advance_heard


def test_nobody_has_to_listen():
    advance(1, 2)


@pytest.mark.parametrize("passes", [1, 2, 3, 20])
def test_the_share_grows_over_any_number_of_passes_and_never_says_that_all_is_over(passes):
    shares = []
    with advance_heard(shares.append):
        for _ in range(passes):
            for done in range(1, 11):
                advance(done, 10)
    assert len(shares) == 10 * passes
    assert all(before < after for before, after in pairwise(shares))
    assert 0 < shares[0] < shares[-1] < 1
    assert shares[9] == 0.5


def test_blocks_within_each_other_are_heard_apart():
    outer, inner = [], []
    with advance_heard(outer.append):
        advance(1, 4)
        with advance_heard(inner.append):
            advance(1, 2)
        advance(2, 4)
    advance(3, 4)
    assert (outer, inner) == ([0.125, 0.25], [0.25])


def test_a_loop_of_no_steps_says_nothing():
    shares = []
    with advance_heard(shares.append):
        advance(0, 0)
    assert shares == []
