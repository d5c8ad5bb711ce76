"""Two calls at the same time give what they give one after the other."""

import threading

import pytest

from extractors.advance import advance, advance_heard
from extractors.side_by_side import side_by_side


def test_results_come_in_the_order_of_the_calls():
    assert side_by_side(lambda: 1, lambda: "two", at_once=1) == (1, "two")
    assert side_by_side(lambda: 1, lambda: "two", at_once=2) == (1, "two")


def test_both_calls_run_at_the_same_time():
    both = threading.Barrier(2, timeout=20)
    assert side_by_side(both.wait, both.wait, at_once=2) in ((0, 1), (1, 0))


def test_one_at_a_time_means_the_first_before_the_second_in_this_thread():
    order = []
    side_by_side(lambda: order.append(threading.get_ident()), lambda: order.append(threading.get_ident()), at_once=1)
    assert order == [threading.get_ident()] * 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_of_either_is_raised_once_both_have_ended(at_once):
    ended = []

    def fails():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        side_by_side(lambda: ended.append("first"), fails, at_once=at_once)
    assert ended == ["first"]
    with pytest.raises(ValueError, match="broken"):
        side_by_side(fails, lambda: ended.append("second"), at_once=at_once)
    assert ended == (["first"] if at_once == 1 else ["first", "second"])


def test_how_far_it_has_come_is_heard_of_the_first_alone():
    heard = []
    with advance_heard(heard.append):
        side_by_side(lambda: advance(1, 2), lambda: advance(9, 10), at_once=2)
    assert heard == [0.25]
