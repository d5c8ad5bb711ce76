"""Descent to the most probable place of many points and of a few parameters that all of them share.

Levenberg-Marquardt (Triggs et al. 2000, "Bundle adjustment: a modern synthesis", sections 3 and 6): a point meets the C
shared parameters in a C x 3 block and no other point, so the normal equations are reduced to those (Schur complement).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.problem import Floats

ENOUGH = 0.1
"""Least fall of the cost, minus the logarithm of the posterior, that is worth another step: one sigma is a half."""

FIRST_DAMPING = 1e-6
"""Share of the diagonal that a first step is held back by: most solves begin near their end, and a camera's place and
what points share are told apart by a thousandth of what each is told by, so that more would stop short of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """Normal equations in blocks: shared (C, C), points (N, 3, 3), both (N, C, 3), and gradients (C,) and (N, 3)."""

    shared: Floats
    point: Floats
    mixed: Floats
    shared_gradient: Floats
    point_gradient: Floats


class Costed(Protocol):
    """Somewhere that a descent may stand."""

    @property
    def cost(self) -> float:
        """Minus the logarithm of the posterior, up to a constant."""


Place = TypeVar("Place", bound=Costed)


def descend(
    place: Place,
    normal_at: Callable[[Place], Normal],
    moved: Callable[[Place, Floats, Floats], Place],
    free: NDArray[np.bool_],
    *,
    steps: int = 30,
) -> Place:
    """The place of least cost near a start (Levenberg-Marquardt), the points eliminated.

    Stops after a step that lowers the cost by less than `ENOUGH`, or after `steps`.

    Args:
        place: the start.
        normal_at: the normal equations at a place.
        moved: the place after a step (C,) of what all points share, and one (N, 3) of the points.
        free: (C,) bool, what of the shared parameters may move.
        steps: most of them.
    """
    damping = FIRST_DAMPING
    for _ in range(steps):
        normal, gain = normal_at(place), 0.0
        while damping < 1e8:
            tried = moved(place, *_step(normal, free, damping))
            if tried.cost < place.cost:
                gain = place.cost - tried.cost
                place, damping = tried, max(damping / 5, 1e-9)
                break
            damping *= 4
        if gain < ENOUGH:
            break
    return place


class Reduced(NamedTuple):
    """Normal equations with the points eliminated.

    Attributes:
        schur, gradient: (C, C) Schur complement of the points, and (C,).
        carried: (N, C, 3), mixed @ point^-1.
        inverse: (N, 3, 3), point^-1.
    """

    schur: Floats
    gradient: Floats
    carried: Floats
    inverse: Floats


def reduced(normal: Normal) -> Reduced:
    """What is left for the shared parameters."""
    inverse = np.asarray(np.linalg.inv(normal.point), np.float64)
    carried = normal.mixed @ inverse
    schur = normal.shared - np.tensordot(carried, normal.mixed, ((0, 2), (0, 2)))
    gradient = normal.shared_gradient - np.einsum("nij,nj->i", carried, normal.point_gradient)
    return Reduced(schur, gradient, carried, inverse)


def by_shared(carried: Floats, covariance: NDArray[np.floating]) -> Floats:
    """(N, 3, 3) covariances of points by that (C, C) of what they share, and their `carried` (N, C, 3)."""
    return np.asarray(np.einsum("nij,ik,nkl->njl", carried, covariance, carried))


def soft_loss(residual: Floats, depth: Floats, sigma: Floats | float) -> Floats:
    """(O,) soft-L1 of errors (2, O) whose noise is `sigma`, of points at `depth` (O,) before the camera."""
    loss = np.sqrt(1 + (residual[0] ** 2 + residual[1] ** 2) / sigma**2) - 1
    # A point behind the camera projects nowhere: it costs what an observation a frame's width off costs.
    behind = depth <= 0
    loss[behind] += 1 / np.broadcast_to(sigma, depth.shape)[behind]
    return np.asarray(loss)


def soft_weight(residual: Floats, sigma: Floats | float) -> Floats:
    """(O,) what an observation of the normal equations of `soft_loss` weighs."""
    return np.asarray(1 / np.sqrt(1 + (residual[0] ** 2 + residual[1] ** 2) / sigma**2) / sigma**2)


def _step(normal: Normal, free: NDArray[np.bool_], damping: float) -> tuple[Floats, Floats]:
    point = normal.point + damping * normal.point * np.eye(3)
    step = np.zeros(len(free))
    if not free.any():
        return step, -np.einsum("nij,nj->ni", np.linalg.inv(point), normal.point_gradient)
    # A parameter that no observation in reach depends on stays where it is instead of stopping the solver.
    shared = normal.shared + (damping * normal.shared + 1e-9) * np.eye(len(free))
    left = reduced(Normal(shared, point, normal.mixed, normal.shared_gradient, normal.point_gradient))
    step[free] = -np.linalg.solve(left.schur[np.ix_(free, free)], left.gradient[free])
    return step, -np.einsum("nij,nj->ni", left.inverse, normal.point_gradient + normal.mixed.swapaxes(1, 2) @ step)
