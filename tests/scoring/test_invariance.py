"""The same clip sampled otherwise: short versions of tests/benchmarks/invariance.py on a clip made by construction."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.benchmarks.invariance import Truth, apart, at_length, at_rate, at_size, judged, mirrored, padded, touched
from tests.scoring.clips import FIRST_MOVE, good_clip

TOLERANCE = 0.05
"""Largest change of a sub-score: a mask of 40 pixels changes by 2 % of its area when its border is drawn anew."""


@cache
def clip() -> Truth:
    signals = good_clip()
    return Truth("square", signals, np.arange(signals.n_frames) >= FIRST_MOVE)


@cache
def verdict():
    return judged(clip())


def compare(changed: Truth, *names: str) -> None:
    after = judged(changed)
    assert apart(verdict(), after, names=names) <= TOLERANCE
    assert after.tags == verdict().tags


@pytest.mark.parametrize("fps", [2, 3, 5, 8, 10, 15, 24, 30, 50, 60])
def test_a_clip_is_judged_alike_at_any_rate(fps):
    compare(at_rate(clip(), fps), "displacement", "mask", "depth", "length", "task", "chatter")


@pytest.mark.parametrize("fps", [5, 10, 15, 30, 50])
def test_contact_is_the_same_stretch_of_time_at_any_rate(fps):
    changed = at_rate(clip(), fps)
    assert touched(changed).sum() / fps == pytest.approx(changed.contact.sum() / fps, abs=0.25)


@pytest.mark.parametrize("side", [56, 112, 224, 300, 448])
def test_a_clip_is_judged_alike_at_any_packet_size(side):
    """The displacement of one clip was 0.5 at 224 pixels and 1.0 at 448."""
    compare(at_size(clip(), side))


def test_a_clip_is_judged_alike_in_a_mirror():
    compare(mirrored(clip()))


def test_black_bars_change_no_verdict():
    compare(padded(clip()), "displacement", "depth", "length", "jerk")


@pytest.mark.parametrize("n_frames", [2, 6, 7, 60, 400])
def test_any_length_is_judged_without_faults(n_frames):
    allowed = {"low-motion", "no-contact", "no-grasp", "still-actions"}  # properties of so short, or idle, a clip
    assert set(judged(at_length(clip(), n_frames)).tags) <= allowed
