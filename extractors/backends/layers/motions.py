"""Affine motions (2, 3) of points in the picture, and the one that carries matches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

IDENTITY: Floats = np.eye(2, 3)


def apply(motion: Floats, points: NDArray[np.floating]) -> Floats:
    """`points` (N, 2) carried by `motion` (2, 3)."""
    moved: Floats = points @ motion[:, :2].T + motion[:, 2]
    return moved


def compose(after: Floats, first: Floats) -> Floats:
    """The motion (2, 3) that applies `first`, then `after`."""
    return np.concatenate([after[:, :2] @ first[:, :2], after[:, :2] @ first[:, 2:] + after[:, 2:]], axis=1)


def translation(shift: NDArray[np.floating]) -> Floats:
    """The motion (2, 3) that adds `shift` (2,)."""
    return np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])


def carried(motions: Floats, points: Floats) -> Floats:
    """(T, N, 2) positions of `points` (N, 2) under `motions` (T, 2, 3)."""
    turned: Floats = np.einsum("tij,nj->tni", motions[:, :, :2], points) + motions[:, None, :, 2]
    return turned


def fit_update(
    start: Floats, end: Floats, weights: Floats, *, fit_px: float, affinity: float, spread_px: float = 1.5
) -> Floats:
    """The affine motion (2, 3) that carries `start` to `end` (N, 2), robustly.

    Iteratively reweighted least squares with Geman-McClure weights of scale `fit_px`, begun at the weighted median
    translation. The linear part is drawn to the identity by a Gaussian prior of standard deviation `affinity`
    against matches of `spread_px`, so that few or crowded points give a translation rather than nonsense.
    """
    if weights.sum() < 1e-3:
        return IDENTITY.copy()
    moved = end - start
    # Moments of all matches in one product a round, and 2 x 2 systems by hand: this is called thousands of times a
    # clip, and on a few dozen points calls cost more than arithmetic. Around the mean, so that moments lose no digits.
    around = start.mean(axis=0)
    matched = np.empty((len(start), 5))
    matched[:, :2], matched[:, 2], matched[:, 3:] = start - around, 1.0, moved
    shift_x, shift_y = (_weighted_median(moved[:, axis], weights) for axis in (0, 1))
    # Rows: what a match's place (x, y, 1) adds to x and to y.
    fitted = np.array([[0.0, 0.0, shift_x], [0.0, 0.0, shift_y]])
    stiff, loose = 1.0 / affinity**2, 1.0 / spread_px**2
    for _ in range(5):
        error = matched[:, 3:] - matched[:, :3] @ fitted.T
        off = np.square(error[:, 0]) + np.square(error[:, 1])
        robust = weights / np.square(1.0 + off / fit_px**2) + 1e-9
        (xx, xy, x, xu, xv), (_, yy, y, yu, yv), (_, _, total, u, v) = (
            (matched[:, :3] * robust[:, None]).T @ matched
        ).tolist()
        x, y, u, v = x / total, y / total, u / total, v / total
        xx, xy, yy = (
            loose * (xx - total * x * x) + stiff,
            loose * (xy - total * x * y),
            loose * (yy - total * y * y) + stiff,
        )
        xu, xv, yu, yv = (
            loose * (product - total * place * move)
            for product, place, move in ((xu, x, u), (xv, x, v), (yu, y, u), (yv, y, v))
        )
        scale = 1.0 / (xx * yy - xy * xy)
        ux, uy = scale * (yy * xu - xy * yu), scale * (xx * yu - xy * xu)
        vx, vy = scale * (yy * xv - xy * yv), scale * (xx * yv - xy * xv)
        fitted = np.array([[ux, uy, u - ux * x - uy * y], [vx, vy, v - vx * x - vy * y]])
    update = fitted.copy()
    update[:, 2] -= fitted[:, :2] @ around
    update[:, :2] += np.eye(2)
    return update


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2.0)])
