"""The moments of a clip: the frames at which it is looked at, whatever its frame rate.

A rule that compares one frame with the next depends on the frame rate: at 50 frames a second nothing moves far from one
to the next, and repeated frames look like rest. Between two moments time passes, or the picture changes much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.types import Frames

Item = TypeVar("Item")

RATE = 5.0
"""Moments a second where little changes: BridgeData's frame rate, at which the rules that use moments were set."""

MUCH = 3.0
"""Mean change of the picture, grey levels of 255, after which a moment comes earlier. From one frame of BridgeData to
the next, and of the simulated episodes, it is 1 to 10: so a clip whose frame rate is stated wrongly, or whose robot is
fast, is still looked at often enough."""

CELLS = 64
"""Pictures are compared as squares of so many cells a side: a cell averages out what noise and compression leave."""


def moments(pixels: Frames, fps: float) -> NDArray[np.int64]:
    """Numbers of the frames that are moments; the first and the last are.

    Args:
        pixels: (T, H, W, 3) uint8 RGB, T at least 1; iterated once.
        fps: frames a second.

    Returns:
        (M,) int64, rising, 1 <= M <= T.
    """
    chosen: list[int] = []
    last: NDArray[np.float32] | None = None
    for frame, image in enumerate(pixels):
        small = cv2.resize(np.asarray(image), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        cells = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        # Half a frame of play: at 12 frames a second every second one is a moment, not every third.
        due = bool(chosen) and (frame - chosen[-1] + 0.5) / fps >= 1 / RATE
        if last is None or due or float(np.abs(cells - last).mean()) >= MUCH:
            chosen.append(frame)
            last = cells
    return np.unique([*chosen, len(pixels) - 1]).astype(np.int64)


def nearest_moment(at: NDArray[np.int64], n_frames: int) -> NDArray[np.int64]:
    """(T,) the place in `at` (M,) of the moment nearest to each frame, the earlier one of two."""
    apart = np.abs(np.arange(n_frames)[:, None] - at[None])
    return np.asarray(apart.argmin(axis=1), np.int64)


def picked(items: Iterable[Item], at: NDArray[np.int64]) -> Iterator[Item]:
    """Those of `items` (one a frame, iterated once) at the frames `at`."""
    numbers = set(at.tolist())
    yield from (item for frame, item in enumerate(items) if frame in numbers)
