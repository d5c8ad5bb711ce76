"""How sure a calibration is, and what cannot be observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.adjust import CameraNormal, Problem, Solution, normal_equations
from extractors.handeye.descent import by_shared, reduced
from extractors.handeye.problem import COLUMNS, N_CAMERA, Floats
from extractors.handeye.project import PROJECTING, Observations, deviations

MIN_CLIPS = 3
"""Fewest clips whose errors say how much clips share."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as observable.

    Attributes:
        focal: largest relative sigma of the focal length.
        position_m: largest sigma of the camera's position.
        rotation_deg: largest sigma of its rotation.
        residual: largest noise, widths of the frame.
        noise_of_motion: largest noise over the deviation of the tracks' own motion.
        min_tracks: fewest tracks that ride.
        field_of_view: (least, most) degrees across the frame that a camera is believed to see.
        farthest_m: largest distance of a camera from the hand's path that is believed.
    """

    focal: float = 0.05
    position_m: float = 0.06
    rotation_deg: float = 2.5
    residual: float = 0.012
    noise_of_motion: float = 0.5
    min_tracks: int = 4
    field_of_view: tuple[float, float] = (12.0, 130.0)
    farthest_m: float = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Uncertainty:
    """Standard deviations at a solution.

    Attributes:
        covariance: (12, 12), zero for parameters that were held.
        focal: relative.
        position_m, rotation_deg: root mean square of the error's length.
        delay_s: seconds.
        points_m: (N, 3) metres, with the camera's uncertainty in them.
        inflation: by how much the variance of the camera exceeds that of independent noise.
    """

    covariance: Floats
    focal: float
    position_m: float
    rotation_deg: float
    delay_s: float
    points_m: Floats
    inflation: float

    def widened(self, factor: float) -> Uncertainty:
        """The same with every variance times `factor`."""
        root = float(np.sqrt(factor))
        return Uncertainty(
            covariance=self.covariance * factor,
            focal=self.focal * root,
            position_m=self.position_m * root,
            rotation_deg=self.rotation_deg * root,
            delay_s=self.delay_s * root,
            points_m=self.points_m * root,
            inflation=self.inflation * factor,
        )


def uncertainty(problem: Problem, solution: Solution) -> Uncertainty:
    """Sigmas from the normal equations, with errors that tracks and frames share measured from the residuals.

    Independent noise would give the inverse of the Schur complement. Errors of a track last over frames (drift), errors
    of a pose or of the clock are shared by the tracks of a frame, and what a hand's looks do to its tracks by all of a
    clip; the sum of gradients within a track, a frame or a clip shows by how much (the cluster-robust sandwich of Liang
    and Zeger, 1986, reduced to one factor: with a dozen tracks its full matrix is noise). Beliefs are not inflated.
    """
    poses = problem.carried(solution.state.delay_s)
    normal = normal_equations(problem, solution.state, solution.points, poses, solution.scale)
    schur, _, carried, inverse = reduced(normal)
    free = problem.free
    inflation = _inflation(problem, normal, schur, carried)
    # Beliefs enter at full weight: the data's part alone is divided.
    beliefs = _beliefs(problem)
    information = (schur - beliefs) / inflation + beliefs
    covariance = np.zeros((N_CAMERA, N_CAMERA))
    covariance[np.ix_(free, free)] = np.linalg.pinv(information[np.ix_(free, free)])
    blocks = {name: covariance[place, place] for name, place in COLUMNS.items()}
    points = inverse * inflation + by_shared(carried, covariance)
    return Uncertainty(
        covariance=covariance,
        focal=float(np.sqrt(covariance[0, 0])),
        position_m=_length(blocks["position"]),
        rotation_deg=float(np.degrees(_length(blocks["rotation"]))),
        delay_s=float(np.sqrt(covariance[10, 10])),
        points_m=deviations(points),
        inflation=inflation,
    )


def _beliefs(problem: Problem) -> Floats:
    return np.diag(problem.prior_information)


def _inflation(problem: Problem, normal: CameraNormal, schur: Floats, carried: Floats) -> float:
    """Variance of the reduced gradient summed within tracks, frames or clips, over that of independent noise."""
    seen, free = problem.seen, problem.free
    weighed = normal.residual * normal.weight
    by_point = (normal.by_point * weighed).sum(axis=1)
    gradient = -np.einsum("oij,jo->oi", carried[seen.track], by_point)
    gradient[:, PROJECTING] += (normal.by_camera * weighed).sum(axis=1).T
    gradient = gradient[:, free]
    inverse = np.linalg.pinv(schur[np.ix_(free, free)])
    inflation = 1.0
    clip = clip_of(problem)
    for group in (seen.track, seen.frame, *([clip] if len(np.unique(clip)) >= MIN_CLIPS else [])):
        sums = np.zeros((int(group.max()) + 1, gradient.shape[1]))
        np.add.at(sums, group, gradient)
        groups = len(np.unique(group))
        ratio = float(np.einsum("gi,ij,gj->", sums, inverse, sums)) / gradient.shape[1]
        # The fit took part of each sum: as many degrees of freedom as it has parameters, or half of them at most.
        inflation = max(inflation, ratio * groups / max(groups - gradient.shape[1], groups / 2))
    return inflation


def clip_of(problem: Problem) -> NDArray[np.intp]:
    """(O,) the clip of each observation."""
    frames = np.cumsum([0, *(len(path.timestamp) for path in problem.paths)])
    return np.asarray(np.searchsorted(frames, problem.seen.frame, side="right") - 1)


def _length(block: Floats) -> float:
    """Root mean square length of an error with this covariance."""
    return float(np.sqrt(max(np.trace(block), 0.0)))


def judge(
    problem: Problem,
    solution: Solution,
    riding: NDArray[np.bool_],
    spread: Uncertainty,
    limits: Limits,
) -> tuple[str, ...]:
    """Why a calibration must not be used; () where it may.

    Args:
        problem: what was solved.
        solution: where it stopped.
        riding: (N,) bool, tracks it rests on.
        spread: its sigmas.
        limits: what counts as observable.
    """
    state, reasons = solution.state, []
    width = 2 * np.degrees(np.arctan(0.5 / state.focal))
    motion = _motion(problem.seen)
    measures = [
        (spread.focal > limits.focal, f"the focal length's sigma is {spread.focal:.1%}, above {limits.focal:.1%}"),
        (
            spread.position_m > limits.position_m,
            f"the camera's place is known to {spread.position_m:.3f} m only, above {limits.position_m} m: "
            "the hand hardly turns",
        ),
        (
            spread.rotation_deg > limits.rotation_deg,
            f"the camera's rotation is known to {spread.rotation_deg:.1f} degrees only, above {limits.rotation_deg}",
        ),
        (int(riding.sum()) < limits.min_tracks, f"{int(riding.sum())} tracks ride, below {limits.min_tracks}"),
        (solution.scale > limits.residual, f"residuals of {solution.scale:.2%} of the width"),
        (
            solution.scale > limits.noise_of_motion * motion,
            f"residuals are {solution.scale / max(motion, 1e-9):.0%} of the tracks' motion",
        ),
        (
            not limits.field_of_view[0] <= width <= limits.field_of_view[1],
            f"the camera would see {width:.0f} degrees, which is not a usual lens",
        ),
        (
            float(np.linalg.norm(state.position)) > limits.farthest_m,
            f"the camera would be {np.linalg.norm(state.position):.1f} m away: are the poses in metres?",
        ),
    ]
    reasons += [reason for wrong, reason in measures if wrong]
    return tuple(reasons)


def _motion(seen: Observations) -> float:
    """Median over tracks of the deviation of their places, widths of the frame."""
    counts = seen.counts
    mean = seen.per_track(seen.xy.T) / np.maximum(counts, 1)
    off = ((seen.xy.T - mean[:, seen.track]) ** 2).sum(axis=0)
    total = seen.per_track(off) / np.maximum(counts, 1)
    return float(np.sqrt(np.median(total[counts > 0]))) if len(seen.track) else 0.0
