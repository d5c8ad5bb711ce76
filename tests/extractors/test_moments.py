"""When a clip is looked at."""

import numpy as np
import pytest

from extractors.moments import moments, nearest_moment, picked


def clip(n_frames, step=0, size=64):
    """A white square on black that goes `step` pixels right with every frame."""
    pixels = np.zeros((n_frames, size, size, 3), np.uint8)
    for t, frame in enumerate(pixels):
        frame[20:40, step * t : step * t + 20] = 255
    return pixels


@pytest.mark.parametrize("fps", [5, 10, 15, 30, 50, 60])
def test_a_clip_that_rests_is_looked_at_five_times_a_second(fps):
    at = moments(clip(4 * fps), fps)
    assert len(at) == pytest.approx(20, abs=1)
    assert np.diff(at[:-1]).max() == fps // 5


def test_a_clip_in_which_much_changes_is_looked_at_in_every_frame():
    assert moments(clip(9, step=4), 60.0).tolist() == list(range(9))


@pytest.mark.parametrize("n_frames", [1, 2, 3, 40])
@pytest.mark.parametrize("fps", [0.5, 7.0, 60.0])
def test_the_first_and_the_last_frame_are_moments(n_frames, fps):
    at = moments(clip(n_frames), fps)
    assert at[0] == 0
    assert at[-1] == n_frames - 1
    assert (np.diff(at) > 0).all()


def test_each_frame_has_the_moment_nearest_to_it():
    at = np.array([0, 4, 5])
    assert nearest_moment(at, 6).tolist() == [0, 0, 0, 1, 1, 2]
    assert list(picked("abcdef", at)) == ["a", "e", "f"]
