"""Where a clip changes its scene, and which frames show nothing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.types import Frames

BLACK_LEVEL = 16
"""Value, of 255, that no pixel of a black frame exceeds: JPEG and video codecs leave a few counts on a dead camera's
black."""


@dataclass(frozen=True)
class Cuts:
    """Where a clip changes its scene.

    Attributes:
        starts: first frames of the scenes, starting with 0.
        blank: frames that show nothing (one colour), such as dropped black ones.
        n_frames: T.
    """

    starts: tuple[int, ...]
    blank: tuple[int, ...]
    n_frames: int

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """(first, past the last) frame of each scene."""
        return list(zip(self.starts, (*self.starts[1:], self.n_frames), strict=True))


def is_black(frame: NDArray[np.uint8]) -> bool:
    """Whether no pixel of an RGB frame (H, W, 3) is brighter than `BLACK_LEVEL` in any colour."""
    return bool(frame.max() <= BLACK_LEVEL)


def scene_cuts(pixels: Frames, *, min_change: float = 0.5, min_contrast: float = 3.0, burst: float = 3.0) -> Cuts:
    """Scene cuts of a clip, found on 32 x 24 thumbnails in one pass.

    A cut is a frame that does not correlate with the one before, while its neighbours do so clearly better. Blank
    frames are left out of the comparison, so a black frame inside a scene does not cut it; blank frames before the
    first picture are a scene of their own, so that the picture's scene starts with a picture.

    Args:
        pixels: (T, H, W, 3) uint8 RGB.
        min_change: 1 - correlation of two thumbnails at a cut.
        min_contrast: standard deviation of a thumbnail (of 255) below which the frame is blank.
        burst: at a cut the change is at least so many times the median change of the four steps around it.
    """
    thumbnails = np.stack([cv2.resize(np.asarray(frame), (32, 24), interpolation=cv2.INTER_AREA) for frame in pixels])
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    grey = thumbnails.mean(-1).reshape(len(thumbnails), -1)
    blank = grey.std(1) < min_contrast
    shown = np.flatnonzero(~blank)
    starts = [0]
    if len(shown) and shown[0] > 0:
        starts.append(int(shown[0]))
    change = _changes(flat[shown])
    for step in range(len(change)):
        around = np.concatenate([change[max(0, step - 2) : step], change[step + 1 : step + 3]])
        usual = float(np.median(around)) if len(around) else 0.0
        if change[step] >= min_change and change[step] >= burst * usual:
            starts.append(int(shown[step + 1]))
    return Cuts(tuple(starts), tuple(map(int, np.flatnonzero(blank))), len(thumbnails))


def _changes(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - correlation of each row with the one before."""
    centred = flat - flat.mean(1, keepdims=True)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    correlation: NDArray[np.float32] = (unit[1:] * unit[:-1]).sum(1)
    return 1 - correlation
