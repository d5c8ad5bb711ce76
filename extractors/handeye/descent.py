"""Descent to the most probable place of many points and of a few parameters that all of them share.

Levenberg-Marquardt (Triggs et al. 2000, "Bundle adjustment: a modern synthesis", sections 3 and 6): a point meets the C
shared parameters in a C x 3 block and no other point, so the normal equations are reduced to those (Schur complement).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

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


def reduced(normal: Normal) -> tuple[Floats, Floats, Floats]:
    """Schur complement of the points: (C, C), its gradient (C,), and mixed @ point^-1 (N, C, 3)."""
    carried = normal.mixed @ np.linalg.inv(normal.point)
    schur = normal.shared - np.tensordot(carried, normal.mixed, ((0, 2), (0, 2)))
    gradient = normal.shared_gradient - np.einsum("nij,nj->i", carried, normal.point_gradient)
    return schur, gradient, carried


def _step(normal: Normal, free: NDArray[np.bool_], damping: float) -> tuple[Floats, Floats]:
    point = normal.point + damping * normal.point * np.eye(3)
    inverse = np.linalg.inv(point)
    step = np.zeros(len(free))
    if not free.any():
        return step, -np.einsum("nij,nj->ni", inverse, normal.point_gradient)
    carried = normal.mixed @ inverse
    # A parameter that no observation in reach depends on stays where it is instead of stopping the solver.
    shared = normal.shared + (damping * normal.shared + 1e-9) * np.eye(len(free))
    schur = shared - np.tensordot(carried, normal.mixed, ((0, 2), (0, 2)))
    gradient = normal.shared_gradient - np.einsum("nij,nj->i", carried, normal.point_gradient)
    step[free] = -np.linalg.solve(schur[np.ix_(free, free)], gradient[free])
    return step, -np.einsum("nij,nj->ni", inverse, normal.point_gradient + normal.mixed.swapaxes(1, 2) @ step)
