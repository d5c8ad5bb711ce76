"""Do the signals of one clip agree with each other? Plain numbers for the quality card."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.geometry import as_masks, dilate
from extractors.timing import WINDOW_S, frames_in
from extractors.types import Centroids, Contact, Depth, SceneTracks

_MIN_STEPS = 4
"""Fewest separate steps that fix a rotation and a scale between two paths: three fix them, one checks."""

_MIN_SPEED = 0.01
"""Speed of the end effector, m/s, below which its steps are left out: their direction is noise. BridgeData's median
commanded speed is 0.05 m/s."""

_STATIC = 0.0045
"""Largest excursion of a track over the clip, widths, that is taken as a point of the static scene: several times a
tracker's jitter."""

_BORDER = 0.009
"""Mask border that counts for neither side, widths: the error of a good mask's edge."""


def check_consistency(
    *,
    centroids: Centroids | None = None,
    contact: Contact | None = None,
    ee_xyz: NDArray[Any] | None = None,
    masks: NDArray[np.bool_] | None = None,
    depth: Depth | None = None,
    tracks: SceneTracks | None = None,
    track_z: NDArray[Any] | None = None,
    fps: float,
    camera_moves: bool | None = None,
) -> dict[str, float | None]:
    """Cross-checks of what is there; None where something needed is missing or too little of it.

    - `centroid_ee_alignment`, in [0, 1]: how well the centroid's steps during contact are the end effector's, after the
      best rotation and scale between camera and robot frame (Kabsch 1976; 1 is a rigid grasp seen without error).
      Steps are those of `WINDOW_S`. None with a moving camera, in whose frame steps are not the object's.
    - `centroid_ee_scale`: that scale, centroid units per metre: 1 for metric depth and a good camera.
    - `centroid_ee_speed_error`: median of |speed ratio - 1| over the same steps, after the scale.
    - `track_depth_error`: median relative difference of `track_z` and the depth map under visible tracks.
    - `static_depth_drift`: median over static points of how far their depth value strays over time (median absolute
      deviation from its median), relative to the spread of depth between those points. A static camera should give 0.
    - `object_track_depth_outliers`: share of visible object-track samples whose depth is outside the range of the
      object's mask (5th to 95th percentile, widened by half of it).
    - `tracks_in_mask`: share of visible object-track samples inside the mask or by its border.
    - `background_tracks_in_mask`: share of the other visible samples inside it and not by its border.

    Args:
        centroids: T centroids.
        contact: T contact; steps count where both ends are above 0.5.
        ee_xyz: (T, 3) end effector in the robot's frame, metres.
        masks: (T, H, W) bool.
        depth: (T, H, W).
        tracks: of the pixels of `masks` and `depth`.
        track_z: (T, N) depth of the tracks, in the unit of `depth`, where a 3-D tracker or the truth gives it.
        fps: frames per second.
        camera_moves: as measured on the clip; None: not known, taken as still.

    Returns:
        The numbers above by name.

    Raises:
        ShapeError: arrays of different lengths.
        GeometryError: a rate that is not above 0.
    """
    given = (ee_xyz, masks, None if tracks is None else tracks.xy, None if depth is None else depth.values)
    lengths = {len(a) for a in given if a is not None}
    lengths |= {len(c.xyz) for c in (centroids,) if c is not None}
    lengths |= {len(c.probability) for c in (contact,) if c is not None}
    if len(lengths) > 1:
        raise ShapeError(f"signals of one clip must have one length, got {sorted(lengths)}")
    numbers = _motion_agreement(centroids, contact, ee_xyz, frames_in(WINDOW_S, fps), fps, bool(camera_moves))
    if tracks is None:
        return numbers | dict.fromkeys(_TRACK_NUMBERS)
    xy, seen = np.asarray(tracks.xy, np.float64), tracks.seen
    on_object = np.asarray(tracks.on_object, np.bool_)
    numbers |= _track_depth(xy, seen, on_object, depth, track_z, _STATIC * tracks.width)
    numbers["object_track_depth_outliers"] = _depth_outliers(xy, seen & on_object, depth, masks)
    numbers |= _mask_agreement(xy, seen, on_object, masks, _BORDER * tracks.width)
    return numbers


_TRACK_NUMBERS = (
    "track_depth_error",
    "static_depth_drift",
    "object_track_depth_outliers",
    "tracks_in_mask",
    "background_tracks_in_mask",
)


def _motion_agreement(
    centroids: Centroids | None,
    contact: Contact | None,
    ee_xyz: NDArray[Any] | None,
    window: int,
    fps: float,
    camera_moves: bool,
) -> dict[str, float | None]:
    names = ("centroid_ee_alignment", "centroid_ee_scale", "centroid_ee_speed_error")
    if centroids is None or contact is None or ee_xyz is None:
        return dict.fromkeys(names)
    # Steps in the frame of a camera that moves itself are not the object's.
    if camera_moves or len(centroids.xyz) <= window:
        return dict.fromkeys(names)
    touching = (contact.probability > 0.5) & centroids.valid
    # Between two frames of a fast clip the centroid's noise is longer than its step.
    hand, thing = (
        path[window:] - path[:-window] for path in (np.asarray(ee_xyz, np.float64), centroids.xyz.astype(np.float64))
    )
    speed = np.linalg.norm(hand, axis=1)
    use = touching[window:] & touching[:-window] & np.isfinite(speed) & (speed >= _MIN_SPEED * window / fps)
    hand, thing, speed = hand[use], thing[use], speed[use]
    # Windows overlap: as many are separate as fit one behind the other.
    if len(hand) < _MIN_STEPS * window or not thing.any():
        return dict.fromkeys(names)
    left, singular, right = np.linalg.svd(thing.T @ hand)
    # A rotation, not a mirror: the least singular value changes sign where the best map would be one.
    singular[2] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    energy = np.square(hand).sum()
    alignment = float(singular.sum() / np.sqrt(energy * np.square(thing).sum()))
    scale = float(singular.sum() / energy)
    ratio = np.linalg.norm(thing, axis=1) / (max(scale, 1e-12) * speed)
    return dict(zip(names, (alignment, scale, float(np.median(np.abs(ratio - 1)))), strict=True))


def _sample(maps: NDArray[Any], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (T, N) of maps (T, H, W) at the pixel nearest to points (T, N, 2); NaN outside the frame."""
    at = np.rint(np.where(np.isfinite(xy), xy, -1)).astype(int)
    x, y = at[..., 0], at[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < maps.shape[2]) & (y < maps.shape[1])
    frame = np.arange(len(maps))[:, None]
    values = np.asarray(maps[frame, np.where(inside, y, 0), np.where(inside, x, 0)], np.float64)
    return np.where(inside, values, np.nan)


def _track_depth(
    xy: NDArray[np.float64],
    seen: NDArray[np.bool_],
    on_object: NDArray[np.bool_],
    depth: Depth | None,
    track_z: NDArray[Any] | None,
    static_px: float,
) -> dict[str, float | None]:
    if depth is None:
        return {"track_depth_error": None, "static_depth_drift": None}
    values = np.where(seen, _sample(depth.values, xy), np.nan)
    if depth.kind == "metric":
        values = np.where(values > 0, values, np.nan)
    error = None
    if track_z is not None:
        difference = np.abs(np.asarray(track_z, np.float64) / values - 1)
        error = float(np.nanmedian(difference)) if np.isfinite(difference).any() else None
    # A point that was always seen, off the object, and did not move, belongs to the static scene.
    excursion = np.abs(xy - xy[:1]).max(axis=(0, 2))
    static = np.isfinite(values).all(axis=0) & ~on_object & (excursion < static_px)
    drift = None
    if static.sum() >= 10:
        still = values[:, static]
        spread = float(np.subtract(*np.percentile(np.median(still, axis=0), (95, 5))))
        wander = np.median(np.abs(still - np.median(still, axis=0)), axis=0)
        drift = float(np.median(wander) / spread) if spread > 0 else None
    return {"track_depth_error": error, "static_depth_drift": drift}


def _depth_outliers(
    xy: NDArray[np.float64], seen: NDArray[np.bool_], depth: Depth | None, masks: NDArray[np.bool_] | None
) -> float | None:
    if depth is None or masks is None:
        return None
    values = _sample(depth.values, xy)
    outside = total = 0
    for t, mask in enumerate(masks):
        inside = depth.values[t][mask]
        inside = inside[np.isfinite(inside) & ((inside > 0) | (depth.kind == "relative"))]
        found = values[t][seen[t] & np.isfinite(values[t])]
        if not len(inside) or not len(found):
            continue
        low, high = np.percentile(inside, (5, 95))
        margin = 0.5 * (high - low) + 0.01 * abs(high)
        outside += int(((found < low - margin) | (found > high + margin)).sum())
        total += len(found)
    return outside / total if total else None


def _mask_agreement(
    xy: NDArray[np.float64],
    seen: NDArray[np.bool_],
    on_object: NDArray[np.bool_],
    masks: NDArray[np.bool_] | None,
    border_px: float,
) -> dict[str, float | None]:
    if masks is None:
        return {"tracks_in_mask": None, "background_tracks_in_mask": None}
    masks = as_masks(masks)
    outside: NDArray[np.bool_] = np.logical_not(masks)
    # Frames without a mask say nothing about the tracks.
    present = np.asarray(masks.any(axis=(1, 2)))[:, None]
    grown, core = _sample(dilate(masks, border_px), xy), 1 - _sample(dilate(outside, border_px), xy)
    own = seen & on_object & present & np.isfinite(grown)
    other = seen & ~on_object & present & np.isfinite(core)
    return {
        "tracks_in_mask": float(grown[own].mean()) if own.any() else None,
        "background_tracks_in_mask": float(core[other].mean()) if other.any() else None,
    }
