"""The part of the picture in which things happen, for a second, nearer look."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.types import Size

MARGIN = 1.4
"""Side of the window over that of what was found: a fifth on every side for what the first look missed."""

LEAST, MOST = 0.5, 0.9
"""Sides of the window over the frame's shorter side: a nearer look shows no more than clips in training do, and a look
from hardly nearer is not worth its time. J of the generated clips in docs/nano.md is lower by 0.018 at least for a
`LEAST` of 0.8."""


class Window(NamedTuple):
    """A part of frames of `size`: its first row and column, and the ones past its last."""

    top: int
    left: int
    bottom: int
    right: int
    size: Size

    def blend(self, shares: NDArray[np.float32], near: NDArray[np.float32]) -> None:
        """Puts the mean of both looks into `shares` (C, H, W) of frames; `near` (C, h, w) is what the window shows."""
        (height, width), (rows, columns) = shares.shape[1:], near.shape[1:]
        # Where each pixel's centre is in `near`: edges of the window need not be edges of the packet's pixels.
        y = (np.arange(height) + 0.5) * self.size[0] / height
        x = (np.arange(width) + 0.5) * self.size[1] / width
        inside = np.ix_((y > self.top) & (y < self.bottom), (x > self.left) & (x < self.right))
        down = (y[inside[0].ravel()] - self.top) * rows / (self.bottom - self.top) - 0.5
        along = (x[inside[1].ravel()] - self.left) * columns / (self.right - self.left) - 0.5
        columns_at, rows_at = np.meshgrid(along.astype(np.float32), down.astype(np.float32))
        for share, each in zip(shares, near, strict=True):
            seen = cv2.remap(each, columns_at, rows_at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            share[inside] = (share[inside] + seen) / 2


def action_window(found: NDArray[np.bool_], size: Size) -> Window | None:
    """The square of frames of `size` around what was found in all of them, in a smaller picture (M, h, w).

    None where nothing was, or it fills nearly all.
    """
    anywhere = np.logical_or.reduce(found)
    if not anywhere.any():
        return None
    ends = [np.flatnonzero(np.logical_or.reduce(anywhere, axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)]
    edges = [of * side / small for of, side, small in zip(ends, size, anywhere.shape, strict=True)]
    side = max(MARGIN * max(last - first for first, last in edges), LEAST * min(size))
    if side >= MOST * min(size):
        return None
    top, left = (
        round(float(np.clip((first + last - side) / 2, 0, whole - side)))
        for (first, last), whole in zip(edges, size, strict=True)
    )
    long = max(round(side), 1)
    return Window(top, left, min(top + long, size[0]), min(left + long, size[1]), size)
