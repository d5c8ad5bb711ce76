"""Robust bundle adjustment: one camera, many points, by soft-L1 of each observation's distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.descent import Normal, descend, soft_loss, soft_weight
from extractors.handeye.path import HandPath
from extractors.handeye.problem import COLUMNS, N_CAMERA, CameraState, Floats, Priors
from extractors.handeye.project import (
    PROJECTING,
    Carried,
    Observations,
    carried_by,
    poses_at,
    project_only,
    project_points,
    stepped,
)

RESIDUAL_FLOOR = 4e-4
"""Smallest noise believed, widths of the frame (0.1 px at 256): trackers round, and real lenses are not pinholes."""

PER_DISTANCE = 1 / 1.1774
"""Deviation per axis of a 2-D normal error over its median distance (Rayleigh)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that stays as it is while the solver moves.

    Attributes:
        seen: observations that count.
        paths: one a clip.
        priors: what is believed.
        free: (12,) bool, parameters of the camera that may move.
    """

    seen: Observations
    paths: Sequence[HandPath]
    priors: Priors
    free: NDArray[np.bool_]

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(N,) bool, tracks with an observation."""
        return self.seen.counts > 0

    @cached_property
    def own_information(self) -> float:
        """One over the variance of each point about the shared offset.

        Points of a palm are close together, and so are those of the object it holds: their offsets are correlated.
        However many there are, they count as `Priors.independent`; counted as independent, fifty of them would pull
        an object into the palm.
        """
        many = max(int(self.present.sum()) / self.priors.independent, 1.0)
        return float(self.priors.own_m**-2 / many)

    @cached_property
    def prior_information(self) -> Floats:
        """(12,) one over the variance of each camera parameter before any track is seen."""
        priors = self.priors
        information = np.zeros(N_CAMERA)
        information[0] = priors.focal_log_sigma**-2
        information[COLUMNS["position"]] = priors.camera_m**-2
        information[COLUMNS["shared"]] = priors.shared_m**-2
        information[10] = priors.delay_s**-2 if priors.delay_s > 0 else 0.0
        information[11] = priors.distortion**-2 if priors.distortion > 0 else 0.0
        return information

    def carried(self, delay_s: float) -> Carried:
        """Poses where the observations were made."""
        return carried_by(poses_at(self.paths, delay_s), self.seen)

    def prior_offset(self, state: CameraState) -> Floats:
        """(12,) how far the camera is from what was believed."""
        offset = np.zeros(N_CAMERA)
        offset[0] = state.log_focal - np.log(self.priors.focal)
        offset[COLUMNS["position"]] = state.position
        offset[COLUMNS["shared"]] = state.shared
        offset[10], offset[11] = state.delay_s, state.distortion
        return offset


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Where the solver stopped.

    Attributes:
        state, points: camera, and (N, 3) points in metres (the shared offset where a track has no observation).
        cost: minus the logarithm of the posterior, up to a constant.
        scale: noise per axis that `cost` was weighed with, widths of the frame.
        residual: (2, O) projections less observations, widths of the frame.
    """

    state: CameraState
    points: Floats
    cost: float
    scale: float
    residual: Floats

    @property
    def distance(self) -> Floats:
        """(O,) of each observation from its projection, widths of the frame."""
        return np.asarray(np.hypot(self.residual[0], self.residual[1]))


def free_columns(priors: Priors) -> NDArray[np.bool_]:
    """(12,) bool: all of the camera but what the priors leave out."""
    free = np.ones(N_CAMERA, np.bool_)
    free[10], free[11] = priors.delay_s > 0, priors.distortion > 0
    return free


class _Tried(NamedTuple):
    """A camera and points (N, 3) with what they cost; `residual` as `Solution` has it."""

    state: CameraState
    points: Floats
    poses: Carried
    cost: float
    residual: Floats


def solve(problem: Problem, state: CameraState, points: Floats, scale: float, *, steps: int = 30) -> Solution:
    """The best camera and points near a start, for noise of `scale` widths of the frame per axis (see `descend`)."""
    all_points, used = points, np.flatnonzero(problem.present)
    problem, points = replace(problem, seen=problem.seen.renumbered()), points[used]

    def moved(place: _Tried, step: Floats, moves: Floats) -> _Tried:
        tried, tried_points, poses = stepped(place.state, step), place.points + moves, place.poses
        if tried.delay_s != place.state.delay_s:
            poses = problem.carried(tried.delay_s)
        return _Tried(tried, tried_points, poses, *_cost(problem, tried, tried_points, poses, scale))

    poses = problem.carried(state.delay_s)
    found = descend(
        _Tried(state, points, poses, *_cost(problem, state, points, poses, scale)),
        lambda place: normal_equations(problem, place.state, place.points, place.poses, scale),
        moved,
        problem.free,
        steps=steps,
    )
    placed = all_points.copy()
    placed[used] = found.points
    return Solution(found.state, placed, found.cost, scale, found.residual)


def settle(problem: Problem, state: CameraState, points: Floats, scale: float, *, rounds: int = 4) -> Solution:
    """`solve` with the noise measured from its own residuals, until it stays within a tenth of itself."""
    solution = solve(problem, state, points, scale)
    for _ in range(rounds):
        measured = noise(solution.distance)
        if abs(measured - solution.scale) < 0.1 * solution.scale:
            break
        # Halved at most: with a scale that falls faster, points left behind by a poor start look like outliers.
        solution = solve(problem, solution.state, solution.points, max(measured, 0.5 * solution.scale))
    return solution


def noise(distance: Floats) -> float:
    """Deviation per axis from distances in the plane, half of which may be outliers."""
    return max(float(np.median(distance)) * PER_DISTANCE, RESIDUAL_FLOOR) if len(distance) else RESIDUAL_FLOOR


@dataclass(frozen=True, slots=True, eq=False)
class CameraNormal(Normal):
    """Those of a camera (C = 12), with what sandwich estimates need.

    `weight` (O,), `residual` (2, O), and both Jacobians as `Projected` has them.
    """

    weight: Floats
    residual: Floats
    by_camera: Floats
    by_point: Floats


def normal_equations(
    problem: Problem, state: CameraState, points: Floats, poses: Carried, scale: float
) -> CameraNormal:
    """The blocks at a state."""
    seen = problem.seen
    held = not problem.free.any()
    found = project_points(state, points, poses, seen, held=held)
    by_camera, by_point = found.by_camera, found.by_point
    residual = found.xy - seen.xy.T
    weight = poses.inside * soft_weight(residual, scale)
    weighed = by_point * weight
    # To be summed over each track: the points' blocks, their gradients, the mixed blocks.
    rows = np.empty((12 + 3 * len(by_camera), len(weight)))
    np.einsum("iao,jao->ijo", by_point, weighed, out=rows[:9].reshape(3, 3, -1))
    np.einsum("iao,ao->io", weighed, residual, out=rows[9:12])
    if not held:
        np.einsum("iao,jao->ijo", by_camera, weighed, out=rows[12:].reshape(len(by_camera), 3, -1))
    sums = seen.per_track(rows)
    point = np.moveaxis(sums[:9].reshape(3, 3, -1), -1, 0).copy()
    camera, mixed = np.zeros((N_CAMERA, N_CAMERA)), np.zeros((seen.n_tracks, N_CAMERA, 3))
    camera_gradient = np.zeros(N_CAMERA)
    if not held:
        flat = by_camera.reshape(len(by_camera), -1)
        weighed_flat = (by_camera * weight).reshape(flat.shape)
        camera[np.ix_(PROJECTING, PROJECTING)] = weighed_flat @ flat.T
        camera_gradient[PROJECTING] = weighed_flat @ residual.ravel()
        mixed[:, PROJECTING] = np.moveaxis(sums[12:].reshape(len(by_camera), 3, -1), -1, 0)
    point_gradient = sums[9:12].T.copy()
    _add_priors(problem, state, points, camera, point, mixed, camera_gradient, point_gradient)
    return CameraNormal(camera, point, mixed, camera_gradient, point_gradient, weight, residual, by_camera, by_point)


def _add_priors(
    problem: Problem,
    state: CameraState,
    points: Floats,
    camera: Floats,
    point: Floats,
    mixed: Floats,
    camera_gradient: Floats,
    point_gradient: Floats,
) -> None:
    """Adds what is believed of the camera and of the points about their shared offset, in place."""
    information = problem.prior_information
    camera.flat[:: N_CAMERA + 1] += information
    camera_gradient += information * problem.prior_offset(state)
    own = problem.own_information
    present = problem.present
    apart = np.where(present[:, None], points - state.shared, 0.0)
    shared = COLUMNS["shared"]
    own_block = own * np.eye(3)
    point += own_block
    mixed[present, shared] -= own_block
    camera[shared, shared] += present.sum() * own_block
    camera_gradient[shared] -= own * apart.sum(axis=0)
    point_gradient += own * apart


def _cost(problem: Problem, state: CameraState, points: Floats, poses: Carried, scale: float) -> tuple[float, Floats]:
    xy, depth = project_only(state, points, poses, problem.seen)
    residual = xy - problem.seen.xy.T
    cost = float((soft_loss(residual, depth, scale) * poses.inside).sum())
    present = problem.present
    cost += 0.5 * problem.own_information * float(((points - state.shared)[present] ** 2).sum())
    cost += 0.5 * float((problem.prior_information * problem.prior_offset(state) ** 2).sum())
    return cost, residual


def place_points(problem: Problem, state: CameraState, scale: float, near: Floats | None = None) -> Solution:
    """The points of all tracks with the camera held as it is, sought from `near` (N, 3), or from the shared offset."""
    held = replace(problem, free=np.zeros(N_CAMERA, np.bool_))
    start = np.repeat(state.shared[None], problem.seen.n_tracks, axis=0) if near is None else near
    return solve(held, state, start, scale)
