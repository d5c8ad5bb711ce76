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
from extractors.handeye.problem import COLUMNS, CameraState, Floats

NEAREST_M = 0.02
"""Points nearer to the camera than this, or behind it, are placed here, so that a step across the camera costs much
instead of nothing."""

PROJECTING = np.r_[0:7, 10:12]
"""Columns of the camera's parameters that projections depend on: all but what points share, which only beliefs know."""


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
        first = self._first
        return Observations(self.xy, self.frame, np.cumsum(first) - 1, int(first.sum()))

    def per_track(self, values: Floats) -> Floats:
        """Sums of `values` (..., O) over each track: (..., N)."""
        total = np.zeros((*values.shape[:-1], self.n_tracks))
        if len(self.track):
            starts = np.flatnonzero(self._first)
            total[..., self.track[starts]] = np.add.reduceat(values, starts, axis=-1)
        return total

    @property
    def _first(self) -> NDArray[np.bool_]:
        """(O,) bool, the first of its track."""
        first = np.ones(len(self.track), np.bool_)
        np.not_equal(self.track[1:], self.track[:-1], out=first[1:])
        return first


def poses_at(paths: Sequence[HandPath], delay_s: float) -> Poses:
    """Poses of all clips' frames, one clip after the other."""
    parts = [path.at(delay_s) for path in paths]
    return parts[0] if len(parts) == 1 else Poses(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


# In what follows the observations are the last axis: an operation is then one on long vectors.


class Carried(NamedTuple):
    """Poses where observations were made, the observations last.

    Attributes:
        rotation, rotation_rate: (3, 3, O); translation, translation_rate: (3, O); inside: (O,), as those of `Poses`.
    """

    rotation: Floats
    translation: Floats
    rotation_rate: Floats
    translation_rate: Floats
    inside: NDArray[np.bool_]


def carried_by(poses: Poses, seen: Observations) -> Carried:
    """The poses of the observations' frames."""
    rotation, translation, rotation_rate, translation_rate = (
        np.take(np.moveaxis(each, 0, -1), seen.frame, axis=-1)
        for each in (poses.rotation, poses.translation, poses.rotation_rate, poses.translation_rate)
    )
    return Carried(rotation, translation, rotation_rate, translation_rate, poses.inside[seen.frame])


class Projected(NamedTuple):
    """Where points appear, and how that changes.

    Attributes:
        xy: (2, O) from the frame's centre, widths of the frame.
        depth: (O,) metres along the optical axis, as it is, also where points were moved to `NEAREST_M`.
        by_camera: (9, 2, O), by the parameters `PROJECTING`; none of a camera that is held.
        by_point: (3, 2, O) per metre.
    """

    xy: Floats
    depth: Floats
    by_camera: Floats
    by_point: Floats


def project_points(
    state: CameraState, points: Floats, poses: Carried, seen: Observations, *, held: bool = False
) -> Projected:
    """Projections of `points` (N, 3) where `seen` has them, with derivatives; by its points alone if `held`.

    Rotations are changed on the right, R exp([d]): the three columns are turns about the camera's own axes.
    """
    at = np.take(points.T, seen.track, axis=-1)
    xy, depth, rays, in_camera = _project(state, at, poses)
    focal, k1 = state.focal, state.distortion
    by_ray = np.zeros((3, 2, len(depth)))  # by the point in the camera's frame
    # Stretched by the lens: focal (1 + k1 r^2) I + 2 focal k1 r r^T, over the depth.
    radius2 = rays[0] ** 2 + rays[1] ** 2
    by_ray[0, 0] = by_ray[1, 1] = focal * (1 + k1 * radius2) / in_camera[2]
    if k1:
        by_ray[:2] += (2 * focal * k1 / in_camera[2]) * rays[:, None] * rays
    by_ray[2] = -(by_ray[0] * rays[0] + by_ray[1] * rays[1])
    by_place = _matrix_times(state.rotation, by_ray)  # by the point in the carrier's frame
    by_point = by_place[0] * poses.rotation[0][:, None]
    by_point += by_place[1] * poses.rotation[1][:, None]
    by_point += by_place[2] * poses.rotation[2][:, None]
    if held:
        return Projected(xy, depth, by_ray[:0], by_point)
    by_camera = np.empty((len(PROJECTING), 2, len(depth)))
    by_camera[0] = xy
    for axis in range(3):  # -[d] x X is [X] x d
        after, last = (axis + 1) % 3, (axis + 2) % 3
        np.multiply(by_ray[after], in_camera[last], out=by_camera[1 + axis])
        by_camera[1 + axis] -= by_ray[last] * in_camera[after]
    np.negative(by_place, out=by_camera[4:7])
    speed = _rotated(poses.rotation_rate, at) + poses.translation_rate
    by_camera[7] = by_place[0] * speed[0] + by_place[1] * speed[1] + by_place[2] * speed[2]
    np.multiply(focal * radius2, rays, out=by_camera[8])
    return Projected(xy, depth, by_camera, by_point)


def project_only(state: CameraState, points: Floats, poses: Carried, seen: Observations) -> tuple[Floats, Floats]:
    """`xy` (2, O) and `depth` (O,) of `project_points`, without derivatives."""
    xy, depth, *_ = _project(state, np.take(points.T, seen.track, axis=-1), poses)
    return xy, depth


def _project(state: CameraState, at: Floats, poses: Carried) -> tuple[Floats, Floats, Floats, Floats]:
    carried = _rotated(poses.rotation, at) + poses.translation
    in_camera = state.rotation.T @ (carried - state.position[:, None])
    depth = in_camera[2].copy()
    np.maximum(depth, NEAREST_M, out=in_camera[2])
    rays = in_camera[:2] / in_camera[2]
    stretch = state.focal
    if state.distortion:
        stretch = stretch * (1 + state.distortion * (rays**2).sum(axis=0))
    return stretch * rays, depth, rays, in_camera


def _rotated(matrices: Floats, vectors: Floats) -> Floats:
    """(3, O) of matrices (3, 3, O) and vectors (3, O)."""
    total: Floats = matrices[:, 0] * vectors[0]
    total += matrices[:, 1] * vectors[1]
    total += matrices[:, 2] * vectors[2]
    return total


def _matrix_times(matrix: Floats, vectors: Floats) -> Floats:
    """(3, ...) of one matrix (3, 3) and vectors (3, ...)."""
    return np.asarray(matrix @ vectors.reshape(3, -1)).reshape(vectors.shape)


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
