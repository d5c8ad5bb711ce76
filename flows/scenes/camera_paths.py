"""How a camera moves during an episode: where it stands at first, and what is added to that at each frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flows.scenes.poses import Floats, pose, turn
from flows.scenes.textures import Rng

Path = Callable[[Rng, Floats], tuple[Floats, Floats]]
"""From when, 0 at the episode's start to 1 at its end (T,), to shifts in metres and turns in radians, (T, 3) each."""


def _still(_rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    return np.zeros((len(when), 3)), np.zeros((len(when), 3))


def _trembling(rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    return np.zeros((len(when), 3)), rng.normal(0, 0.006, (len(when), 3))


def _nudged(rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    after = (when >= rng.uniform(0.3, 0.7))[:, None]
    return after * rng.normal(0, 0.03, 3), after * rng.normal(0, 0.04, 3)


def _drifting(rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    return when[:, None] * rng.normal(0, 0.04, 3), when[:, None] * rng.normal(0, 0.03, 3)


def _hand_held(rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    return 0.02 * _waves(rng, when, 1, 3), 0.02 * _waves(rng, when, 1, 3)


def _carried(rng: Rng, when: Floats) -> tuple[Floats, Floats]:
    return 0.08 * _waves(rng, when, 0.5, 1), 0.08 * _waves(rng, when, 0.5, 1)


def _waves(rng: Rng, when: Floats, least: float, most: float) -> Floats:
    """(T, 3) in -1 .. 1, each axis with `least` to `most` periods."""
    periods, phase = rng.uniform(least, most, 3), rng.uniform(0, 1, 3)
    return np.asarray(np.sin(2 * np.pi * (when[:, None] * periods + phase)))


PATHS: dict[str, Path] = {
    "still": _still,
    "trembling": _trembling,
    "nudged": _nudged,
    "drifting": _drifting,
    "hand-held": _hand_held,
    "carried": _carried,
}
"""By name: it stands still; turns a little from frame to frame; is put elsewhere once, by a few centimetres; goes there
slowly; sways by two centimetres; is carried about by eight."""


def camera_poses(rng: Rng, stand: Floats, times: Floats, path: str) -> Floats:
    """(T, 4, 4) camera to world at the `times` (T,) of a camera at `stand` (4, 4) that moves as `path` of `PATHS`."""
    shifts, turns = PATHS[path](rng, (times - times[0]) / (times[-1] - times[0]))
    moves = [pose(turn(0, x) @ turn(1, y) @ turn(2, z), shift) for (x, y, z), shift in zip(turns, shifts, strict=True)]
    return np.asarray(stand @ np.array(moves))
