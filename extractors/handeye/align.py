"""Relative depth into metres, from points whose depth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.geometry import MAD_TO_SIGMA, TUKEY_TUNING
from extractors.handeye.problem import Floats


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
        """Depth along z in metres, in the shape of `relative`; 0 where the map says farther than can be told."""
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
    """Scale and shift from points of known depth, Tukey's biweight on relative errors.

    Args:
        relative: (P,) values of the relative map (inverse depth, larger is nearer) at the points, all frames together.
        depth_m: (P,) metres along z.
        sigma_m: (P,) standard deviations of `depth_m`.
        min_points: fewest points.
        rounds: of reweighting.

    Raises:
        ShapeError: lengths differ.
        GeometryError: too few points, or they lie in one depth: scale and shift cannot be told apart.
    """
    if relative.shape != depth_m.shape or depth_m.shape != sigma_m.shape or relative.ndim != 1:
        raise ShapeError(f"known points need three (P,) arrays, got {relative.shape} {depth_m.shape} {sigma_m.shape}")
    good = np.isfinite(relative) & np.isfinite(depth_m) & np.isfinite(sigma_m) & (depth_m > 0)
    if int(good.sum()) < min_points:
        raise GeometryError(f"depth is aligned at {min_points} points at least, got {int(good.sum())} usable ones")
    r, z, sigma = (np.asarray(each[good], np.float64) for each in (relative, depth_m, sigma_m))
    design, wanted = np.stack([r, np.ones_like(r)], axis=1), 1 / z
    noise = np.hypot(sigma / z, 0.01)  # relative; no network's map is better than a hundredth
    weight = np.ones_like(r)
    for _ in range(rounds):
        scaled = design * (weight / (noise / z) ** 2)[:, None]
        normal = scaled.T @ design
        if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)))) > 1e6:
            raise GeometryError("the known points have one depth; scale and shift of the map cannot be told apart")
        scale, shift = np.linalg.solve(normal, scaled.T @ wanted)
        relative_error = (design @ (scale, shift) - wanted) * z
        spread = max(MAD_TO_SIGMA * float(np.median(np.abs(relative_error))), 1e-4)
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
