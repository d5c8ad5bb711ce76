"""Frames at one brightness."""

import cv2
import numpy as np
import pytest

from extractors.exposure import lit_alike
from tests.extractors.test_tracks import sliding_square, textured


@pytest.mark.parametrize("size", [56, 160])
@pytest.mark.parametrize("gains", [(0.6, 0.6, 0.6), (1.2, 1.0, 0.8)])
def test_a_flickering_lamp_is_taken_out(size, gains):
    pixels, _ = sliding_square(9, size=size)
    dim = pixels // 2  # nothing reaches white
    lit = dim.copy()
    lit[::3] = np.rint(dim[::3] * gains)
    found = np.stack(lit_alike(lit))
    assert np.abs(found.astype(int) - dim).max() <= 2
    for number in (1, 2, 4):
        np.testing.assert_array_equal(found[number], dim[number])


def test_noise_and_another_view_leave_frames_as_they_are():
    rng = np.random.default_rng(0)
    canvas = textured(64, 320)
    noisy = [np.clip(canvas[:, :64] + rng.normal(0, 8, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    assert all(after is before for after, before in zip(lit_alike(noisy), noisy, strict=True))
    turning = [np.ascontiguousarray(canvas[:, 60 * t : 60 * t + 64]) for t in range(4)]
    assert all(after is before for after, before in zip(lit_alike(turning), turning, strict=True))


@pytest.mark.parametrize("images", [[], [np.zeros((3, 2, 3), np.uint8)] * 2])
def test_nothing_and_black_frames_have_a_brightness_too(images):
    np.testing.assert_array_equal(lit_alike(images), images)


def test_a_robot_over_less_than_half_of_the_picture_is_not_light():
    canvas = textured(64, 64)
    covered = canvas.copy()
    cv2.rectangle(covered, (0, 0), (26, 63), (20, 20, 25), -1)
    assert lit_alike([covered, canvas, canvas])[0] is covered
