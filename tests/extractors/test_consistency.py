"""Cross-checks between signals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.consistency import check_consistency
from extractors.errors import ShapeError
from extractors.types import Centroids, Contact, Depth

T, H, W, N = 20, 64, 64, 120


def path(seed=0):
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (T, 3)), axis=0)


def centroids(xyz):
    xyz = np.asarray(xyz, np.float32)
    return Centroids(xyz, np.isfinite(xyz).all(1), np.zeros_like(xyz), "m")


def contact(start=0, vision="tracks"):
    probability = np.where(np.arange(T) >= start, 0.9, 0.1).astype(np.float32)
    return Contact(probability, start, probability > 0.5, {"vision": vision})


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
        "tracks_xy": np.broadcast_to(xy, (T, N, 2)).astype(np.float32),
        "visibility": np.ones((T, N), bool),
        "on_object": np.arange(N) < 40,
    }


def test_an_object_carried_by_the_hand_is_aligned_with_it_in_any_frame():
    hand = path()
    turned = Rotation.from_euler("xyz", (0.4, 1.1, -0.7)).apply(hand) * 0.5 + (0, 0, 1)
    numbers = check_consistency(centroids=centroids(turned), contact=contact(), ee_xyz=hand)
    assert numbers["centroid_ee_alignment"] == pytest.approx(1, abs=1e-4)
    assert numbers["centroid_ee_scale"] == pytest.approx(0.5, rel=1e-4)
    assert numbers["centroid_ee_speed_error"] < 1e-3


def test_an_object_that_moves_by_itself_or_mirrored_is_not_aligned():
    hand = path()
    other = check_consistency(centroids=centroids(path(9)), contact=contact(), ee_xyz=hand)
    mirrored = check_consistency(centroids=centroids(hand * (1, 1, -1)), contact=contact(), ee_xyz=hand)
    assert other["centroid_ee_alignment"] < 0.7
    assert mirrored["centroid_ee_alignment"] < 0.9


@pytest.mark.parametrize("start", [T - 2, T])
def test_too_short_a_contact_tells_nothing(start):
    numbers = check_consistency(centroids=centroids(path()), contact=contact(start), ee_xyz=path())
    assert numbers["centroid_ee_alignment"] is None


def test_a_moving_camera_and_missing_signals_give_none():
    moving = check_consistency(centroids=centroids(path()), contact=contact(vision="moving camera"), ee_xyz=path())
    assert moving["centroid_ee_scale"] is None
    assert set(check_consistency().values()) == {None}


def test_tracks_that_agree_with_masks_and_depth():
    clip = tracks()
    rows = np.rint(clip["tracks_xy"][..., 1]).astype(int)
    numbers = check_consistency(**clip, track_z=clip["depth"].values[0][rows, 0])
    assert numbers["tracks_in_mask"] == 1
    assert numbers["background_tracks_in_mask"] == 0
    assert numbers["object_track_depth_outliers"] == 0
    assert numbers["static_depth_drift"] == 0
    assert numbers["track_depth_error"] == 0


def test_tracks_left_behind_by_their_object_are_noticed():
    clip = tracks()
    clip["masks"] = np.zeros_like(clip["masks"])
    clip["masks"][:, 2:12, 2:12] = True
    numbers = check_consistency(**clip)
    assert numbers["tracks_in_mask"] == 0
    assert numbers["object_track_depth_outliers"] > 0.9


def test_depth_that_pumps_is_noticed():
    clip = tracks()
    pumped = clip["depth"].values * (1 + 0.2 * (np.arange(T) % 2))[:, None, None]
    numbers = check_consistency(**clip | {"depth": Depth(pumped.astype(np.float32), "metric")})
    assert numbers["static_depth_drift"] > 0.1


def test_frames_without_mask_or_reading_are_left_out():
    clip = tracks()
    clip["masks"][3:] = False
    clip["depth"].values[5] = 0
    numbers = check_consistency(**clip)
    assert numbers["tracks_in_mask"] == 1
    assert numbers["object_track_depth_outliers"] == 0


def test_signals_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="length"):
        check_consistency(centroids=centroids(path()), contact=contact(), ee_xyz=path()[:-1])
    with pytest.raises(ShapeError, match="on_object"):
        check_consistency(**tracks() | {"on_object": np.ones(3, bool)})
