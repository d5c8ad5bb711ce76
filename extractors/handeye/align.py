"""Relative depth into metres, from points whose depth is known: one scale and shift a clip, or one a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.geometry import MAD_TO_SIGMA, TUKEY_TUNING
from extractors.handeye.problem import Floats

LEAST_IN_FRAME = 4
"""Points that tell a frame's own scale and shift; of frames with fewer, both lie between their neighbours'."""

DRIFT = 0.3
"""How far a frame's map is believed to be off the clip's, as a share of its spread: weak, for frames of few points."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """metres = 1 / (scale * relative + shift), one pair a clip.

    Attributes:
        scale, shift: 1 / m per unit of the relative map, and 1 / m.
        covariance: (2, 2) of the two.
        residual: relative deviation of the known depths from the fit, robust.
        inliers: share of the known points that the fit kept, in [0, 1].
        n_points: known points.
    """

    scale: float
    shift: float
    covariance: Floats
    residual: float
    inliers: float
    n_points: int

    def metres(self, relative: NDArray[Any]) -> NDArray[np.float32]:
        """Depth along z in metres, in the shape of `relative`; 0 where the map says farther than it can resolve."""
        inverse = self.scale * np.asarray(relative, np.float64) + self.shift
        with np.errstate(divide="ignore"):
            depth = np.where(inverse > 0, 1 / inverse, 0)
        return np.where(depth > 100, 0, depth).astype(np.float32)

    def sigma(self, relative: NDArray[Any]) -> NDArray[np.float32]:
        """Relative standard deviation of `metres` from the fit and from the map's own scatter, same shape."""
        inverse = np.maximum(self.scale * np.asarray(relative, np.float64) + self.shift, 1e-6)
        variance = self.covariance[0, 0] * np.square(relative) + 2 * self.covariance[0, 1] * relative
        variance = variance + self.covariance[1, 1]
        return np.asarray(np.sqrt(variance / inverse**2 + self.residual**2), np.float32)


def align_depth(
    relative: NDArray[Any], depth_m: NDArray[Any], sigma_m: NDArray[Any], *, min_points: int = 8, rounds: int = 20
) -> Alignment:
    """Scale and shift from points of known depth: a line through errors of both, Tukey's biweight on relative ones.

    Args:
        relative: (P,) values of the relative map (inverse depth, larger is nearer) at the points, all frames together.
        depth_m: (P,) metres along z.
        sigma_m: (P,) standard deviations of `depth_m`.
        min_points: fewest points.
        rounds: of reweighting.

    Raises:
        ShapeError: lengths differ.
        GeometryError: too few points, or all have one depth: scale and shift cannot be separated.
    """
    if relative.shape != depth_m.shape or depth_m.shape != sigma_m.shape or relative.ndim != 1:
        raise ShapeError(f"known points need three (P,) arrays, got {relative.shape} {depth_m.shape} {sigma_m.shape}")
    good = np.isfinite(relative) & np.isfinite(depth_m) & np.isfinite(sigma_m) & (depth_m > 0)
    if int(good.sum()) < min_points:
        raise GeometryError(f"depth is aligned at {min_points} points at least, got {int(good.sum())} usable ones")
    r, z, sigma = (np.asarray(each[good], np.float64) for each in (relative, depth_m, sigma_m))
    design, inverse_depth = np.stack([r, np.ones_like(r)], axis=1), 1 / z
    noise = np.hypot(sigma / z, 0.01)  # relative; no network's map is better than a hundredth
    weight, grain, scale = np.ones_like(r), 0.0, 1.0
    for _ in range(rounds):
        normal = (design * (weight / (noise / z) ** 2)[:, None]).T @ design
        if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)))) > 1e6:
            raise GeometryError("the known points have one depth; scale and shift of the map cannot be separated")
        scale, shift = _line(r, inverse_depth, (noise / z) ** 2, grain / z**2, weight, scale)
        relative_error = (design @ (scale, shift) - inverse_depth) * z
        spread = max(MAD_TO_SIGMA * float(np.median(np.abs(relative_error))), 1e-4)
        grain = max(spread**2 - float(np.median(noise**2)), 0.0)  # the map's own, of what both scatter together
        weight = np.square(np.maximum(1 - np.square(relative_error / (TUKEY_TUNING * spread)), 0))
    # Errors of one point in many frames are one error: as many independent points as `min_points` at most count.
    together = max(weight.sum() / min_points, 1.0)
    inflation = max(float((weight * np.square(relative_error / noise)).sum() / max(weight.sum() - 2, 1)), 1.0)
    return Alignment(
        scale=float(scale),
        shift=float(shift),
        covariance=np.linalg.inv(normal) * inflation * together,
        residual=spread,
        inliers=float((weight > 0).mean()),
        n_points=int(good.sum()),
    )


def _line(
    values: Floats, aim: Floats, of_aim: Floats, of_map: Floats, weight: Floats, before: float
) -> tuple[float, float]:
    """Slope and intercept of `aim` over `values`, both with errors (York 1966), one step from the slope `before`.

    Were the map taken to have none, its slope would come out too flat, and what is beyond the hand too near.

    Args:
        values: (P,) of the map.
        aim: (P,) what they should become.
        of_aim: (P,) variances of `aim`.
        of_map: (P,) of `values`, in `aim`'s units.
        weight: (P,) of robust fitting.
        before: the slope; matters only where `of_map` is not 0.

    Raises:
        GeometryError: the values say nothing of the aim.
    """
    share = weight / (of_aim + of_map)
    off, off_aim = (each - np.average(each, weights=share) for each in (values, aim))
    moved = share**2 / np.maximum(weight, 1e-12) * (off * of_aim + off_aim * of_map / before)
    denominator = float(moved @ off)
    if not denominator > 0:
        raise GeometryError("the map does not go with the depth of the known points")
    slope = float(moved @ off_aim) / denominator
    return slope, float(np.average(aim - slope * values, weights=share))


@dataclass(frozen=True, slots=True, eq=False)
class FrameAlignment:
    """A clip's frames brought onto one scale, and that scale into metres.

    Attributes:
        whole: of the stabilized map.
        stabilizer: (T, 2) scale and shift of each frame: stabilized = scale * relative + shift.
        measured: (T,) bool, frames whose own points tell them.
    """

    whole: Alignment
    stabilizer: Floats
    measured: NDArray[np.bool_]


def align_frames(
    relative: NDArray[Any], depth_m: NDArray[Any], sigma_m: NDArray[Any], frame: NDArray[np.integer], n_frames: int
) -> FrameAlignment:
    """A pair for each frame beside the clip's, for a map of a moving camera: no background stays to hold it still.

    Args:
        relative: (P,) values of the relative map at the points.
        depth_m: (P,) metres along z of their own frame.
        sigma_m: (P,) standard deviations of `depth_m`.
        frame: (P,) each point's frame.
        n_frames: of the clip.

    Raises:
        ShapeError: lengths differ.
        GeometryError: as `align_depth`; no frame has `LEAST_IN_FRAME` points; or larger values would be farther.
    """
    whole = align_depth(relative, depth_m, sigma_m)
    good = np.isfinite(relative) & np.isfinite(depth_m) & np.isfinite(sigma_m) & (depth_m > 0)
    values, depth, sigma, frame = (np.asarray(each)[good] for each in (relative, depth_m, sigma_m, frame))
    spread = max(float(np.std(values)), 1e-9)
    measured = np.bincount(frame, minlength=n_frames) >= LEAST_IN_FRAME
    # The clip's own pair is better told once frames no longer drift against each other.
    for _ in range(3):
        if whole.scale <= 0:
            raise GeometryError("larger values of the map would be farther")
        aim = (1 / depth - whole.shift) / whole.scale
        noise = np.hypot(sigma / depth, 0.01) / (depth * whole.scale)
        pairs = np.tile([1.0, 0.0], (n_frames, 1))
        for number in np.flatnonzero(measured):
            own = frame == number
            pairs[number] = _frame_pair(values[own], aim[own], noise[own], spread)
        measured = measured & (pairs[:, 0] > 0)
        if not measured.any():
            raise GeometryError(f"no frame shows {LEAST_IN_FRAME} points of known depth")
        shown = np.flatnonzero(measured)
        pairs = np.stack([np.interp(np.arange(n_frames), shown, pairs[shown, part]) for part in (0, 1)], axis=1)
        # All frames together could be on any scale: the middle frame's stays the model's own.
        middle = np.median(pairs, axis=0)
        pairs = (pairs - [0.0, middle[1]]) / middle[0]
        whole = align_depth(pairs[frame, 0] * values + pairs[frame, 1], depth, sigma)
    return FrameAlignment(whole, pairs, measured)


def _frame_pair(values: Floats, aim: Floats, noise: Floats, spread: float, *, rounds: int = 8) -> Floats:
    """(2,) scale and shift that bring `values` to `aim`, robustly, drawn weakly to 1 and 0."""
    design = np.stack([values, np.ones_like(values)], axis=1)
    believed = np.diag([1 / DRIFT**2, 1 / (DRIFT * spread) ** 2])
    pair = np.array([1.0, 0.0])
    for _ in range(rounds):
        # From the belief on: a wild value would pull a first fit of all to itself.
        off = (design @ pair - aim) / noise
        limit = TUKEY_TUNING * max(MAD_TO_SIGMA * float(np.median(np.abs(off))), 1.0)
        weight = np.square(np.maximum(1 - np.square(off / limit), 0))
        scaled = design * (weight / noise**2)[:, None]
        pair = np.linalg.solve(scaled.T @ design + believed, scaled.T @ aim + believed @ (1.0, 0.0))
    return pair
