"""Cross-checks between signals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.consistency import check_consistency
from extractors.errors import ShapeError
from extractors.types import Centroids, Contact, Depth, SceneTracks

T, H, W, N = 20, 64, 64, 120


def path(seed=0):
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (T, 3)), axis=0)


def centroids(xyz):
    xyz = np.asarray(xyz, np.float32)
    return Centroids(xyz, np.isfinite(xyz).all(1), np.zeros_like(xyz), "m")


def check(**signals):
    return check_consistency(**{"fps": 5.0} | signals)


def contact(start=0):
    probability = np.where(np.arange(T) >= start, 0.9, 0.1).astype(np.float32)
    return Contact(probability, start, probability > 0.5)


def tracks():
    """Points at rest, the first 40 of them on a square object."""
    rng = np.random.default_rng(1)
    masks = np.zeros((T, H, W), bool)
    masks[:, 20:40, 20:40] = True
    xy = np.concatenate([rng.uniform(21, 38, (40, 2)), rng.uniform(42, 63, (80, 2))])
    values = np.linspace(0.5, 1.5, H)[None, :, None] * np.ones((T, 1, W))
    return {
        "masks": masks,
        "depth": Depth(values.astype(np.float32), "metric"),
        "tracks": SceneTracks(
            np.broadcast_to(xy, (T, N, 2)).astype(np.float32), np.ones((T, N), bool), np.arange(N) < 40, W
        ),
    }


def test_an_object_carried_by_the_hand_is_aligned_with_it_in_any_frame():
    hand = path()
    turned = Rotation.from_euler("xyz", (0.4, 1.1, -0.7)).apply(hand) * 0.5 + (0, 0, 1)
    numbers = check(centroids=centroids(turned), contact=contact(), ee_xyz=hand)
    assert numbers["centroid_ee_alignment"] == pytest.approx(1, abs=1e-4)
    assert numbers["centroid_ee_scale"] == pytest.approx(0.5, rel=1e-4)
    assert numbers["centroid_ee_speed_error"] < 1e-3


def test_an_object_that_moves_by_itself_or_mirrored_is_not_aligned():
    hand = path()
    other = check(centroids=centroids(path(9)), contact=contact(), ee_xyz=hand)
    mirrored = check(centroids=centroids(hand * (1, 1, -1)), contact=contact(), ee_xyz=hand)
    assert other["centroid_ee_alignment"] < 0.7
    assert mirrored["centroid_ee_alignment"] < 0.9


@pytest.mark.parametrize("start", [T - 2, T])
def test_too_short_a_contact_tells_nothing(start):
    numbers = check(centroids=centroids(path()), contact=contact(start), ee_xyz=path())
    assert numbers["centroid_ee_alignment"] is None


def test_a_moving_camera_and_missing_signals_give_none():
    moving = check(centroids=centroids(path()), contact=contact(), ee_xyz=path(), camera_moves=True)
    assert moving["centroid_ee_scale"] is None
    assert set(check().values()) == {None}


def test_tracks_that_agree_with_masks_and_depth():
    clip = tracks()
    rows = np.rint(clip["tracks"].xy[..., 1]).astype(int)
    numbers = check(**clip, track_z=clip["depth"].values[0][rows, 0])
    assert numbers["tracks_in_mask"] == 1
    assert numbers["background_tracks_in_mask"] == 0
    assert numbers["object_track_depth_outliers"] == 0
    assert numbers["static_depth_drift"] == 0
    assert numbers["track_depth_error"] == 0


def test_tracks_left_behind_by_their_object_are_noticed():
    clip = tracks()
    clip["masks"] = np.zeros_like(clip["masks"])
    clip["masks"][:, 2:12, 2:12] = True
    numbers = check(**clip)
    assert numbers["tracks_in_mask"] == 0
    assert numbers["object_track_depth_outliers"] > 0.9


def test_depth_that_pumps_is_noticed():
    clip = tracks()
    pumped = clip["depth"].values * (1 + 0.2 * (np.arange(T) % 2))[:, None, None]
    numbers = check(**clip | {"depth": Depth(pumped.astype(np.float32), "metric")})
    assert numbers["static_depth_drift"] > 0.1


def test_frames_without_mask_or_reading_are_left_out():
    clip = tracks()
    clip["masks"][3:] = False
    clip["depth"].values[5] = 0
    numbers = check(**clip)
    assert numbers["tracks_in_mask"] == 1
    assert numbers["object_track_depth_outliers"] == 0


def test_signals_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="length"):
        check(centroids=centroids(path()), contact=contact(), ee_xyz=path()[:-1])
    with pytest.raises(ShapeError, match="on_object"):
        SceneTracks(np.zeros((T, N, 2)), np.ones((T, N), bool), np.ones(3, bool), W)


@pytest.mark.parametrize("fps", [1, 5, 10, 15, 30, 50, 60])
def test_a_carried_object_is_aligned_with_the_hand_at_any_rate(fps):
    # 4 s along a curve at 0.1 m/s, seen with 2 mm of noise: between two frames at 60 a second the hand moves 1.7 mm.
    rng = np.random.default_rng(0)
    angle = np.arange(4 * fps + 1) / fps
    hand = 0.1 * np.stack([np.cos(angle), np.sin(angle), 0.5 * angle], axis=1)
    seen = hand + rng.normal(0, 0.002, hand.shape)
    full = Contact(np.ones(len(hand), np.float32), 0, np.ones(len(hand), bool))
    numbers = check(centroids=centroids(seen), contact=full, ee_xyz=hand, fps=float(fps))
    if fps == 1:
        assert numbers["centroid_ee_alignment"] > 0.98  # four steps
    else:
        assert numbers["centroid_ee_alignment"] == pytest.approx(0.98, abs=0.03)


@pytest.mark.parametrize("width", [64, 112, 224, 448])
@pytest.mark.parametrize(("sway", "still"), [(0.004, True), (0.006, False)])
def test_whether_a_point_is_still_follows_the_frames_width(width, sway, still):
    places = np.random.default_rng(0).uniform(0.2, 0.8, (60, 2)) * width
    xy = places[None] + sway * width * (np.arange(T) % 2)[:, None, None]
    points = SceneTracks(xy, np.ones((T, 60), bool), np.zeros(60, bool), width)
    depth = Depth(np.broadcast_to(np.linspace(1, 2, width, dtype=np.float32)[:, None], (T, width, width)), "metric")
    drift = check(tracks=points, depth=depth)["static_depth_drift"]
    assert (drift is not None) == still
