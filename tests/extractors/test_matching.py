"""Places of points matched again, where one knows where to look."""

import cv2
import numpy as np
import pytest

from extractors.matching import match_again


def turning_picture(size, n_frames=9, n_points=30):
    """A pattern that turns by 8 degrees a frame and grows by 2 %: pictures, its points' exact places, warps, frames."""
    rng = np.random.default_rng(1)
    pattern = cv2.GaussianBlur(rng.integers(0, 255, (size, size, 3), dtype=np.uint8), (0, 0), size / 90)
    pattern = cv2.normalize(pattern, None, 0, 255, cv2.NORM_MINMAX)
    middle = (size - 1) / 2
    turns = [cv2.getRotationMatrix2D((middle, middle), 8.0 * frame, 1.02**frame) for frame in range(n_frames)]
    pixels = np.stack([cv2.warpAffine(pattern, turn, (size, size)) for turn in turns])
    start = middle + rng.uniform(-0.25, 0.25, (n_points, 2)) * size
    turns = np.stack(turns)
    places = np.einsum("tij,nj->tni", turns[:, :, :2], start) + turns[:, None, :, 2]
    posed = np.arange(n_points) % n_frames
    warps = turns[:, None, :, :2] @ np.linalg.inv(turns[posed][:, :, :2])[None]
    return pixels, places, warps, posed


@pytest.mark.parametrize("size", [96, 224, 448])
def test_points_are_matched_again_with_the_picture_they_were_posed_in(size):
    pixels, places, warps, posed = turning_picture(size)
    n_points = len(posed)
    own = posed == np.arange(len(pixels))[:, None]
    off = np.array([0.008, -0.006]) * size
    riding = np.arange(n_points) < n_points // 2
    visible = own | (np.arange(n_points) % 3 > 0)
    drifted = np.where(own[..., None], places, places + off)
    xy, found = match_again(pixels, drifted, visible, posed, places + off, warps, riding)
    error = np.linalg.norm(xy - places, axis=-1)
    assert (error[found] < 0.003 * size).mean() > 0.98
    assert found[:, riding].mean() > 0.95
    # Those that do not ride are matched where they were seen, and stay lost where they were lost.
    assert not (found & ~visible)[:, ~riding].any()
    assert (found & visible)[:, ~riding].mean() > 0.95 * visible[:, ~riding].mean()
    own = posed, np.arange(n_points)
    np.testing.assert_array_equal(xy[own], places[own].astype(np.float32))


def test_what_looks_otherwise_is_not_found_and_what_nobody_expects_stays():
    pixels, places, warps, posed = turning_picture(224)
    unknown, rides = np.arange(len(posed)) % 2 == 0, np.ones(len(posed), bool)
    pixels[-1] = np.random.default_rng(5).integers(0, 255, pixels[-1].shape)
    own = posed == np.arange(len(pixels))[:, None]
    beside = np.where(own[..., None], places, places + 1.0).astype(np.float32)
    expected = np.where(unknown[:, None], np.nan, places)
    xy, found = match_again(pixels, beside, np.ones_like(own), posed, expected, warps, rides)
    assert not found[-1, ~unknown & (posed < 8)].any()
    np.testing.assert_array_equal(xy[:, unknown], beside[:, unknown])
    assert found[:, unknown].all()
    # Behind the camera in one frame: nowhere to look for it.
    expected[3] = np.nan
    xy, found = match_again(pixels, places, own, posed, expected, warps, rides)
    assert not found[3, ~unknown & (posed != 3)].any()
    assert found[4, ~unknown].mean() > 0.9


def test_a_patch_that_looks_the_same_is_not_matched_again():
    pixels, places, warps, posed = turning_picture(224)
    rides, visible = np.ones(len(posed), bool), np.ones(places.shape[:2], bool)
    beside = (places + 1.0).astype(np.float32)
    beside[posed, np.arange(len(posed))] = places[posed, np.arange(len(posed))]
    before = warps.copy()
    before[4] += 0.1
    xy, found = match_again(pixels, beside, visible, posed, places, warps, rides, before)
    others = np.arange(len(pixels)) != 4
    np.testing.assert_array_equal(xy[others], beside[others])
    assert found[others].all()
    moved = found[4] & (posed != 4)
    assert moved.mean() > 0.8
    assert np.median(np.linalg.norm(xy[4, moved] - places[4, moved], axis=-1)) < 0.2
