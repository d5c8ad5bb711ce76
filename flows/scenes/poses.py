"""Rigid poses as 4 x 4 matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def turn(axis: int, angle: float) -> Floats:
    """(3, 3) rotation by `angle` (rad) about coordinate axis 0, 1 or 2."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.eye(3)
    out[i, i] = out[j, j] = np.cos(angle)
    out[j, i], out[i, j] = np.sin(angle), -np.sin(angle)
    return out


def pose(rotation: Floats, position: Floats | tuple[float, float, float]) -> Floats:
    """(4, 4) from (3, 3) and (3,)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, position
    return out


def frame_along(z: Floats, side: Floats) -> Floats:
    """(3, 3) right-handed, column z along `z`, column x as near to `side` as that allows."""
    z = z / np.linalg.norm(z)
    x = side - z * (side @ z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)


def quaternion(rotation: Floats) -> Floats:
    """(4,) w, x, y, z of a (3, 3) rotation, from its dominant eigenvector (Bar-Itzhack, 2000)."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r.trace()],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def look_at(eye: Floats, target: Floats, roll: float = 0.0) -> Floats:
    """(4, 4) camera to world, OpenCV axes: x right, y down, z forward."""
    z = target - eye
    z = z / np.linalg.norm(z)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    return pose(np.stack([x, np.cross(z, x), z], 1) @ turn(2, roll), eye)
