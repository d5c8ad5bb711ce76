"""Places of points matched anew, where one knows where to look."""

import cv2
import numpy as np
import pytest

from extractors.matching import match_again
from extractors.types import Tracks


def turning_picture(size, n_frames=9, n_points=30):
    """A pattern that turns by 8 degrees a frame and grows by 2 %: pictures, exact places and warps of its points."""
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
    queries = np.concatenate([posed[:, None], places[posed, np.arange(n_points)]], axis=1).astype(np.float32)
    return pixels, places, warps, queries


def tracks_at(xy, visible, queries):
    score = visible.astype(np.float32)
    return Tracks(xy.astype(np.float32), visible, score, score, queries)


@pytest.mark.parametrize("size", [96, 224, 448])
def test_points_are_matched_anew_with_the_picture_they_were_posed_in(size):
    pixels, places, warps, queries = turning_picture(size)
    n_points, posed = len(queries), queries[:, 0].astype(int)
    own = posed == np.arange(len(pixels))[:, None]
    off = np.array([0.008, -0.006]) * size
    riding = np.arange(n_points) < n_points // 2
    visible = own | (np.arange(n_points) % 3 > 0)
    drifted = np.where(own[..., None], places, places + off)
    found = match_again(pixels, tracks_at(drifted, visible, queries), places + off, warps, riding)
    error = np.linalg.norm(found.xy - places, axis=-1)
    assert (error[found.visibility] < 0.003 * size).mean() > 0.98
    assert found.visibility[:, riding].mean() > 0.95
    # Those that do not ride are matched where they were seen, and stay lost where they were lost.
    assert not (found.visibility & ~visible)[:, ~riding].any()
    assert (found.visibility & visible)[:, ~riding].mean() > 0.95 * visible[:, ~riding].mean()
    np.testing.assert_array_equal(found.xy[posed, np.arange(n_points)], queries[:, 1:])
    assert ((found.visibility_score > 0) == found.visibility).all()


def test_what_looks_otherwise_is_not_found_and_what_nobody_expects_stays():
    pixels, places, warps, queries = turning_picture(224)
    n_points, unknown = len(queries), np.arange(len(queries)) % 2 == 0
    pixels[-1] = np.random.default_rng(5).integers(0, 255, pixels[-1].shape)
    tracks = tracks_at(places + 1.0, np.ones(places.shape[:2], bool), queries)
    expected = np.where(unknown[:, None], np.nan, places)
    found = match_again(pixels, tracks, expected, warps, np.ones(n_points, bool))
    assert not found.visibility[-1, ~unknown & (queries[:, 0] < 8)].any()
    np.testing.assert_array_equal(found.xy[:, unknown], tracks.xy[:, unknown])
    assert found.visibility[:, unknown].all()
    # Behind the camera in one frame: nowhere to look for it.
    expected[3] = np.nan
    lost = tracks_at(places, np.zeros(places.shape[:2], bool), queries)
    found = match_again(pixels, lost, expected, warps, np.ones(n_points, bool))
    assert not found.visibility[3, ~unknown & (queries[:, 0] != 3)].any()
    assert found.visibility[4, ~unknown].mean() > 0.9
