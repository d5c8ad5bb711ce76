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

from extractors.handeye.path import HandPath, Poses
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

    @property
    def counts(self) -> NDArray[np.intp]:
        """(N,) observations of each track."""
        return np.bincount(self.track, minlength=self.n_tracks)

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


def project_points(
    state: CameraState, points: Floats, poses: Poses, seen: Observations, *, held: bool = False
) -> Projected:
    """Projections of `points` (N, 3) where `seen` has them, with derivatives; zeros by a camera that is `held`.

    Rotations are changed on the right, R exp([d]): the three columns are turns about the camera's own axes.
    """
    xy, depth, rays, in_camera = _project(state, points, poses, seen)
    focal, k1 = state.focal, state.distortion
    radius2 = (rays**2).sum(axis=1)
    outer = np.empty((len(rays), 2, 3))  # by the point in the camera's frame
    # Stretched by the lens: focal (1 + k1 r^2) I + 2 focal k1 r r^T, over the depth.
    outer[:, :, :2] = (2 * focal * k1 / in_camera[:, 2])[:, None, None] * rays[:, :, None] * rays[:, None]
    outer[:, (0, 1), (0, 1)] += (focal * (1 + k1 * radius2) / in_camera[:, 2])[:, None]
    outer[:, :, 2] = -(outer[:, :, 0] * rays[:, :1] + outer[:, :, 1] * rays[:, 1:])
    from_carrier = (outer.reshape(-1, 3) @ state.rotation.T).reshape(-1, 2, 3)
    by_point = sum_products(from_carrier, poses.rotation[seen.frame])
    by_camera = np.zeros((len(rays), 2, N_CAMERA))
    if held:
        return Projected(xy, depth, by_camera, by_point)
    by_camera[:, :, 0] = xy
    by_camera[:, :, COLUMNS["rotation"]] = cross(outer, in_camera[:, None])  # -[d] x X is [X] x d
    by_camera[:, :, COLUMNS["position"]] = -from_carrier
    speed = rotated(poses.rotation_rate[seen.frame], points[seen.track]) + poses.translation_rate[seen.frame]
    by_camera[:, :, 10] = (from_carrier * speed[:, None]).sum(axis=2)
    by_camera[:, :, 11] = focal * radius2[:, None] * rays
    return Projected(xy, depth, by_camera, by_point)


def project_only(state: CameraState, points: Floats, poses: Poses, seen: Observations) -> tuple[Floats, Floats]:
    """`xy` (O, 2) and `depth` (O,) of `project_points`, without derivatives."""
    xy, depth, *_ = _project(state, points, poses, seen)
    return xy, depth


def _project(
    state: CameraState, points: Floats, poses: Poses, seen: Observations
) -> tuple[Floats, Floats, Floats, Floats]:
    carried = rotated(poses.rotation[seen.frame], points[seen.track]) + poses.translation[seen.frame]
    in_camera = (carried - state.position) @ state.rotation
    depth = in_camera[:, 2].copy()
    in_camera[:, 2] = np.maximum(depth, NEAREST_M)
    rays = in_camera[:, :2] / in_camera[:, 2:]
    xy = state.focal * (1 + state.distortion * (rays**2).sum(axis=1, keepdims=True)) * rays
    return xy, depth, rays, in_camera


# A product of many small matrices is a loop of calls in numpy; these are a few operations on long vectors.


def cross(one: Floats, other: Floats) -> Floats:
    """Cross products of vectors (..., 3)."""
    (a, b, c), (x, y, z) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    return np.stack([b * z - c * y, c * x - a * z, a * y - b * x], axis=-1)


def rotated(matrices: Floats, vectors: Floats) -> Floats:
    """(O, 3) of matrices (O, 3, 3) and vectors (O, 3)."""
    return np.asarray(sum(matrices[:, :, axis] * vectors[:, axis, None] for axis in range(3)))


def sum_products(one: Floats, other: Floats) -> Floats:
    """(O, A, B) matrix products of (O, A, K) and (O, K, B) with a small K."""
    return np.asarray(sum(one[:, :, inner, None] * other[:, None, inner] for inner in range(one.shape[2])))


def deviations(covariances: NDArray[np.floating]) -> Floats:
    """(N, 3) standard deviations from covariances (N, 3, 3)."""
    return np.asarray(np.sqrt(np.maximum(np.diagonal(covariances, axis1=1, axis2=2), 0)))


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
