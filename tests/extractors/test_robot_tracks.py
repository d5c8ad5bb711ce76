"""Points on the robot, from frame to frame, and matched anew."""

import cv2
import numpy as np
import pytest

from extractors.robot_tracks import follow_robot, match_again, robot_alone
from extractors.types import Tracks
from tests.extractors.test_tracks import sliding_square


@pytest.mark.parametrize("size", [48, 96, 224])
def test_points_on_a_sliding_square_go_with_it(size):
    step = (max(size // 48, 1), 0)
    pixels, masks = sliding_square(8, size=size, side=size // 3, start=(size // 8, size // 4), step=step)
    tracks = follow_robot(robot_alone(pixels, masks), masks, count=40)
    went = tracks.xy - tracks.queries[None, :, 1:]
    since = np.arange(8)[:, None] - tracks.queries[None, :, 0]
    off = np.linalg.norm(went - since[..., None] * step, axis=-1)
    assert tracks.visibility.mean() > 0.6
    assert np.quantile(off[tracks.visibility], 0.9) < 0.02 * size


def test_a_point_is_seen_where_it_was_posed_and_stays_where_it_was_lost():
    pixels, masks = sliding_square(9, size=64)
    rng = np.random.default_rng(0)
    pixels[6:] = rng.integers(0, 255, pixels[6:].shape)
    masks[5:] = False
    tracks = follow_robot(robot_alone(pixels, masks), masks, count=24)
    own = tracks.queries[:, 0].astype(int), np.arange(24)
    assert tracks.visibility[own].all()
    np.testing.assert_array_equal(tracks.xy[own], tracks.queries[:, 1:])
    assert not tracks.visibility[7:].any()
    np.testing.assert_array_equal(tracks.xy[8], tracks.xy[7])
    assert np.isfinite(tracks.xy).all()
    assert ((tracks.visibility_score > 0) == tracks.visibility).all()


@pytest.mark.parametrize("n_frames", [1, 2, 30])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 64)])
def test_any_length_and_size_is_followed(n_frames, size):
    pixels, _ = sliding_square(n_frames, size=160)
    pixels = np.ascontiguousarray(pixels[:, 20 : 20 + size[0], 8 : 8 + size[1]])
    masks = np.ones(pixels.shape[:3], bool)
    tracks = follow_robot(robot_alone(pixels, masks), masks, count=5)
    assert tracks.xy.shape == (n_frames, 5, 2)
    assert np.isfinite(tracks.xy).all()
    np.testing.assert_array_equal(tracks.xy, follow_robot(robot_alone(pixels, masks), masks, count=5).xy)


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
