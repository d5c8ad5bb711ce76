"""The handled thing is one: a piece a moment, or those that the hand cut."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from extractors.backends.nano.pieces import keep_one_thing

N, SIDE = 6, 40


def handle(*, cut_at=(3, 4, 5), gap=slice(16, 22), hand=slice(16, 22)):
    """A bar of 24 x 6 pixels that a hand is laid over in the moments `cut_at`; masks and the robot's."""
    masks, robot = np.zeros((2, N, SIDE, SIDE), np.bool_)
    masks[:, 20:26, 8:32] = True
    for moment in cut_at:
        masks[moment, :, gap] = False
        robot[moment, :26, hand] = True
    return masks, robot


def kept(masks, robot, shares=None):
    out = masks.copy()
    keep_one_thing(out, masks * np.float32(0.9) if shares is None else shares, robot)
    return out


def test_both_ends_of_what_the_hand_lies_over_are_kept():
    masks, robot = handle()
    np.testing.assert_array_equal(kept(masks, robot), masks)


def test_a_gap_that_is_not_the_hands_leaves_the_larger_piece():
    masks, robot = handle(hand=slice(0, 2))
    out = kept(masks, robot)
    assert out[3, :, :16].sum() == 0
    np.testing.assert_array_equal(out[3, :, 22:], masks[3, :, 22:])
    np.testing.assert_array_equal(out[:3], masks[:3])


@pytest.mark.parametrize("gap", [2, 6])
def test_a_finger_of_its_colour_is_not_the_thing(gap):
    masks, robot = handle(cut_at=())
    robot[:, :20, 16:22] = True
    masks[:, 14 - gap : 14, 16:22] = True
    out = kept(masks, robot)
    assert out.sum(axis=(1, 2)).tolist() == [24 * 6] * N


def test_the_piece_with_most_of_the_share_is_kept_not_the_one_with_most_pixels():
    masks, robot = handle(cut_at=())
    masks[:, 2:10, 2:32] = True
    shares = np.where(np.arange(SIDE)[:, None] > 15, 0.99, 0.51) * masks
    np.testing.assert_array_equal(kept(masks, robot, shares)[:, 20:26], masks[:, 20:26])
    assert not kept(masks, robot, shares)[:, :15].any()


def test_nothing_stays_nothing():
    nothing = np.zeros((N, SIDE, SIDE), np.bool_)
    assert not kept(nothing, nothing).any()


def test_thousands_of_specks_take_no_more_memory_than_a_few_pictures():
    rng = np.random.default_rng(0)
    masks = rng.random((4, 300, 300)) < 0.1
    tracemalloc.start()
    keep_one_thing(masks, masks.astype(np.float16), np.zeros_like(masks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert masks.any(axis=(1, 2)).all()
    assert peak < 20 * masks.nbytes
