"""The still background of a clip, and how two of them register: whether a camera was moved between two times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError

WIDTH_PX = 128
"""Width that backgrounds are compared at: sub-pixel registration sees a hundredth of the width at this size."""

MOST_FRAMES = 15
"""Frames that a median is made of; more change it little and cost time."""

LEAST_CORRELATION = 0.6
"""Of two registered backgrounds of one scene; things that were moved on the table leave 0.7 and more; other views of
one sink in the 64 x 64 BridgeData sample 0.6 and less, or they are shifted."""

BUMPED_WIDTHS = 0.015
"""A camera that moves a corner of the picture by more than this was bumped: two pixels at 128. It turns the camera by
0.8 degrees at 60 degrees of view, the rotation that a calibration states as its own sigma."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How one background goes over into another.

    Attributes:
        moved: farthest that a corner of the picture moves, widths of the frame.
        correlation: of the two pictures when registered, -1 to 1.
    """

    moved: float
    correlation: float

    @property
    def same_view(self) -> bool:
        """Whether the camera stood still between the two."""
        return self.correlation >= LEAST_CORRELATION and self.moved <= BUMPED_WIDTHS


def still_background(pixels: NDArray[np.uint8], moving: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Median picture (h, `WIDTH_PX`) uint8 grey of frames (T, H, W, 3); a hand that passes leaves no trace.

    Args:
        pixels: RGB.
        moving: (T, H, W) True on what moves; where it always does, the median is of all frames.

    Raises:
        ShapeError: no frame, or another shape.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise ShapeError(f"a background wants frames (T, H, W, 3), got {pixels.shape}")
    chosen = np.unique(np.linspace(0, len(pixels) - 1, MOST_FRAMES).round().astype(int))
    height = max(8, round(WIDTH_PX * pixels.shape[1] / pixels.shape[2]))
    frames = np.stack(
        [
            cv2.resize(cv2.cvtColor(pixels[t], cv2.COLOR_RGB2GRAY), (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
            for t in chosen
        ]
    ).astype(np.float32)
    whole = np.median(frames, axis=0)
    if moving is not None:
        covered = np.stack([_shrunk(moving[t], height) for t in chosen])
        kept = np.where(covered, np.nan, frames)
        seen = ~covered.all(axis=0)
        whole[seen] = np.nanmedian(kept[:, seen], axis=0)
    return np.asarray(np.rint(whole), np.uint8)


def register(one: NDArray[Any], other: NDArray[Any]) -> Registration:
    """How background `one` goes over into `other`, both (h, w) grey of one size.

    An affine map found by phase correlation, which reaches any shift, then by maximising the enhanced correlation
    coefficient (Evangelidis and Psarakis, 2008), which gives fractions of a pixel; what was moved on the table counts
    little.

    Raises:
        ShapeError: the sizes differ.
    """
    if one.shape != other.shape or one.ndim != 2:
        raise ShapeError(f"backgrounds to compare have one size (h, w), got {one.shape} and {other.shape}")
    # OpenCV 5 registers pictures by their common brightness unless the mean is taken out.
    first, second = (np.asarray(each, np.float32) - np.float32(np.mean(each)) for each in (one, other))
    shift, _ = cv2.phaseCorrelate(first, second, cv2.createHanningWindow(one.shape[::-1], cv2.CV_32F))
    # From no shift too: things that were moved on a table outweigh its texture in small pictures.
    tried = [each for start in ((0.0, 0.0), shift) if (each := _registered(first, second, start)) is not None]
    if not tried:
        return Registration(1.0, -1.0)  # it does not converge where the two have nothing in common
    correlation, warp = max(tried, key=lambda each: each[0])
    height, width = one.shape
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], np.float64)
    moved = np.linalg.norm(corners @ warp.T.astype(np.float64) - corners[:, :2], axis=1)
    return Registration(float(moved.max()) / width, float(correlation))


def _registered(
    first: NDArray[np.float32], second: NDArray[np.float32], shift: Sequence[float]
) -> tuple[float, NDArray[np.float32]] | None:
    """Correlation and affine map (2, 3) from a start, by way of a shift alone; None where it does not converge."""
    warp: Any = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    everywhere = np.full(first.shape, 255, np.uint8)
    found: list[tuple[float, NDArray[np.float32]]] = []
    for kind in (cv2.MOTION_TRANSLATION, cv2.MOTION_EUCLIDEAN, cv2.MOTION_AFFINE):
        try:
            correlation, warp = cv2.findTransformECC(first, second, warp.copy(), kind, stop, everywhere, 5)
        except cv2.error:
            break
        found.append((float(correlation), np.asarray(warp, np.float32)))
    # More freedom may end in a worse place: what was moved on the table pulls at it.
    return max(found, key=lambda each: each[0]) if found else None


def _shrunk(mask: NDArray[np.bool_], height: int) -> NDArray[np.bool_]:
    small = cv2.resize(mask.astype(np.uint8) * 255, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small > 0)
