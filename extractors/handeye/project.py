"""One equation for every rig: a point, a pose, a camera, a pixel; and its derivatives.

With G(t) the recorded pose (hand to base for a fixed camera, base to hand for a wrist camera), o a point in the frame
that G starts from, and (R, c) the camera in the frame that G leads to:

    X = R^T (G(t + delay) o - c),   u = (X / Z, Y / Z),   xy = f (1 + k1 |u|^2) u
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.handeye.path import HandPath, Poses, skew
from extractors.handeye.problem import COLUMNS, N_CAMERA, CameraState, Floats

NEAREST_M = 0.02
"""Points nearer to the camera than this, or behind it, are placed here, so that a step across the camera costs much
instead of nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Positions of tracks in frames, ordered by track so that sums over a track are sums over a run.

    Attributes:
        xy: (O, 2) from the frame's centre, widths of the frame.
        frame: (O,) index into the frames of all clips, one after the other.
        track: (O,) index into the tracks of all clips, one after the other; increasing.
        n_tracks: of all clips.
    """

    xy: Floats
    frame: NDArray[np.intp]
    track: NDArray[np.intp]
    n_tracks: int

    def of(self, tracks: NDArray[np.bool_]) -> Observations:
        """Those of some tracks (N,), with all tracks' numbers unchanged."""
        keep = tracks[self.track]
        return Observations(self.xy[keep], self.frame[keep], self.track[keep], self.n_tracks)

    def renumbered(self) -> Observations:
        """The same with tracks numbered from 0 without gaps, in their order."""
        present, track = np.unique(self.track, return_inverse=True)
        return Observations(self.xy, self.frame, track, len(present))

    def per_track(self, values: Floats) -> Floats:
        """Sums of `values` (O, ...) over each track: (N, ...)."""
        total = np.zeros((self.n_tracks, *values.shape[1:]))
        if len(self.track):
            starts = np.flatnonzero(np.diff(self.track, prepend=-1))
            total[self.track[starts]] = np.add.reduceat(values, starts, axis=0)
        return total


def poses_at(paths: Sequence[HandPath], delay_s: float) -> Poses:
    """Poses of all clips' frames, one clip after the other."""
    parts = [path.at(delay_s) for path in paths]
    return Poses(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Projected(NamedTuple):
    """Where points appear, and how that changes.

    Attributes:
        xy: (O, 2) from the frame's centre, widths of the frame.
        depth: (O,) metres along the optical axis, as it is, also where points were moved to `NEAREST_M`.
        by_camera: (O, 2, 12), in `COLUMNS`' order.
        by_point: (O, 2, 3) per metre.
    """

    xy: Floats
    depth: Floats
    by_camera: Floats
    by_point: Floats


def project_points(state: CameraState, points: Floats, poses: Poses, seen: Observations) -> Projected:
    """Projections of `points` (N, 3) where `seen` has them, with derivatives.

    Rotations are changed on the right, R exp([d]): the three columns are turns about the camera's own axes.
    """
    xy, depth, rays, in_camera = _project(state, points, poses, seen)
    focal, k1 = state.focal, state.distortion
    radius2 = (rays**2).sum(axis=1)
    stretch = focal * (1 + k1 * radius2)[:, None, None] * np.eye(2) + 2 * focal * k1 * rays[:, :, None] * rays[:, None]
    by_camera_point = np.zeros((len(rays), 2, 3))
    by_camera_point[:, 0, 0] = by_camera_point[:, 1, 1] = 1 / in_camera[:, 2]
    by_camera_point[:, :, 2] = -rays / in_camera[:, 2:]
    outer = stretch @ by_camera_point
    by_camera = np.zeros((len(rays), 2, N_CAMERA))
    by_camera[:, :, 0] = xy
    by_camera[:, :, COLUMNS["rotation"]] = outer @ skew(in_camera)  # -[d] x X is [X] x d
    from_carrier = outer @ state.rotation.T
    by_camera[:, :, COLUMNS["position"]] = -from_carrier
    speed = (poses.rotation_rate[seen.frame] @ points[seen.track][:, :, None])[:, :, 0]
    speed += poses.translation_rate[seen.frame]
    by_camera[:, :, 10] = (from_carrier @ speed[:, :, None])[:, :, 0]
    by_camera[:, :, 11] = focal * radius2[:, None] * rays
    return Projected(xy, depth, by_camera, from_carrier @ poses.rotation[seen.frame])


def project_only(state: CameraState, points: Floats, poses: Poses, seen: Observations) -> tuple[Floats, Floats]:
    """`xy` (O, 2) and `depth` (O,) of `project_points`, without derivatives."""
    xy, depth, *_ = _project(state, points, poses, seen)
    return xy, depth


def _project(
    state: CameraState, points: Floats, poses: Poses, seen: Observations
) -> tuple[Floats, Floats, Floats, Floats]:
    carried = (poses.rotation[seen.frame] @ points[seen.track][:, :, None])[:, :, 0] + poses.translation[seen.frame]
    in_camera = (carried - state.position) @ state.rotation
    depth = in_camera[:, 2].copy()
    in_camera[:, 2] = np.maximum(depth, NEAREST_M)
    rays = in_camera[:, :2] / in_camera[:, 2:]
    xy = state.focal * (1 + state.distortion * (rays**2).sum(axis=1, keepdims=True)) * rays
    return xy, depth, rays, in_camera


def stepped(state: CameraState, step: Floats) -> CameraState:
    """The camera after a step (12,) of its parameters."""
    return CameraState(
        log_focal=state.log_focal + float(step[0]),
        rotation=state.rotation @ Rotation.from_rotvec(step[COLUMNS["rotation"]]).as_matrix(),
        position=state.position + step[COLUMNS["position"]],
        shared=state.shared + step[COLUMNS["shared"]],
        delay_s=state.delay_s + float(step[10]),
        distortion=state.distortion + float(step[11]),
    )
