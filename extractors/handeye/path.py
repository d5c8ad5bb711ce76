"""The hand's pose at any moment, from its recorded rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from extractors.errors import GeometryError
from extractors.handeye.problem import Floats, Rig


class Poses(NamedTuple):
    """Poses at the moments of T images, and how they change with time.

    Attributes:
        rotation: (T, 3, 3).
        translation: (T, 3) metres.
        rotation_rate: (T, 3, 3) per second.
        translation_rate: (T, 3) metres per second.
        inside: (T,) bool, the moment was recorded, not extrapolated.
    """

    rotation: Floats
    translation: Floats
    rotation_rate: Floats
    translation_rate: Floats
    inside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class HandPath:
    """A smooth path through the recorded poses.

    Attributes:
        timestamp: (T,) seconds, of the images.
        places: translation over time.
        turns: rotation over time.
        first_s, last_s: between these the path was recorded.
        step_s: median time between images.
        inverted: poses are given as base to hand, for a camera on the hand.
    """

    timestamp: Floats
    places: CubicSpline
    turns: RotationSpline
    first_s: float
    last_s: float
    step_s: float
    inverted: bool

    @classmethod
    def through(cls, hand_pose: Floats, timestamp: Floats, origin: Floats, rig: Rig = "fixed") -> HandPath:
        """The path through `hand_pose` (T, 4, 4) at `timestamp` (T,); rows that are not finite are passed over.

        The base frame is moved to `origin` (3,), the middle of the paths: a turn about a far origin looks like a shift.

        Raises:
            GeometryError: fewer than two rows are finite, time does not increase, or a row is no rotation.
        """
        recorded = np.isfinite(hand_pose).all(axis=(1, 2))
        if int(recorded.sum()) < 2:
            raise GeometryError(f"a hand's path needs two poses at least, got {int(recorded.sum())}")
        if not (np.diff(timestamp) > 0).all():
            raise GeometryError("a hand's path needs times that increase; check the timestamps")
        rotations = hand_pose[recorded, :3, :3]
        wrong = np.abs(np.einsum("tij,tkj->tik", rotations, rotations) - np.eye(3)).max()
        if wrong > 1e-2 or (np.linalg.det(rotations) < 0).any():
            raise GeometryError(
                f"hand_pose holds matrices that are no rotations (off by {wrong:.2g}); check its source"
            )
        times = np.asarray(timestamp, np.float64)[recorded]
        return cls(
            timestamp=np.asarray(timestamp, np.float64),
            places=CubicSpline(times, hand_pose[recorded, :3, 3] - origin, bc_type="natural"),
            turns=RotationSpline(times, Rotation.from_matrix(rotations)),
            first_s=float(times[0]),
            last_s=float(times[-1]),
            step_s=float(np.median(np.diff(timestamp))),
            inverted=rig == "wrist",
        )

    def at(self, delay_s: float) -> Poses:
        """Poses at `timestamp` + `delay_s`; beyond its ends the path stands still."""
        asked = self.timestamp + delay_s
        times = np.clip(asked, self.first_s, self.last_s)
        rotation = self.turns(times).as_matrix()
        rates = self.turns(times, 1)  # rad/s in the body's frame
        rotation_rate = rotation @ skew(rates)
        translation, translation_rate = self.places(times), self.places(times, 1)
        # Half a step beyond the ends costs less than the frames it would lose.
        inside = np.abs(asked - times) <= 0.5 * self.step_s
        if self.inverted:
            back, back_rate = np.swapaxes(rotation, 1, 2), np.swapaxes(rotation_rate, 1, 2)
            moved = -np.einsum("tij,tj->ti", back, translation)
            moved_rate = -np.einsum("tij,tj->ti", back_rate, translation)
            moved_rate -= np.einsum("tij,tj->ti", back, translation_rate)
            return Poses(back, moved, back_rate, moved_rate, inside)
        return Poses(rotation, translation, rotation_rate, translation_rate, inside)


def skew(vectors: Floats) -> Floats:
    """Matrices (..., 3, 3) of vectors (..., 3) that multiply as their cross products do."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))
