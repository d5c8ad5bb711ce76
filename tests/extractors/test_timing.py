"""Seconds in frames."""

import pytest

from extractors.errors import GeometryError
from extractors.timing import WINDOW_S, frames_in


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(0.2, 5, 1), (0.2, 30, 6), (0.6, 5, 3), (0.5, 5, 3), (2, 1, 2)])
def test_seconds_are_rounded_to_frames(seconds, fps, frames):
    assert frames_in(seconds, fps) == frames


@pytest.mark.parametrize("fps", range(1, 61))
def test_a_window_is_within_half_a_frame_of_its_length(fps):
    assert abs(frames_in(WINDOW_S, fps) / fps - WINDOW_S) <= max(0.5 / fps, 1 / fps - WINDOW_S) + 1e-9


@pytest.mark.parametrize("fps", [0, -5, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(GeometryError, match="frame rate"):
        frames_in(1, fps)
