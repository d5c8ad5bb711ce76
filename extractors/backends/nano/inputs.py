"""What the network sees of a frame: colours, the clip's scenery, what changed, and where the pixel is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]

CHANNELS = 20
"""Of `network_inputs`."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenery:
    """A clip's pictures without what only passes, (H, W, 3) uint8 each.

    What was put elsewhere differs between `early` and `late`: at the place it left, and where it is now.

    Attributes:
        whole: of all frames.
        early, late: of the first and of the last third.
    """

    whole: Pixels
    early: Pixels
    late: Pixels

    @classmethod
    def of(cls, frames: Pixels) -> Scenery:
        """Of frames (T, H, W, 3) in order of time."""
        third = max(round(len(frames) / 3), 1)
        return cls(median_picture(frames), median_picture(frames[:third]), median_picture(frames[-third:]))

    @classmethod
    def still(cls, picture: Pixels) -> Scenery:
        """Of a clip in which nothing moves."""
        return cls(picture, picture, picture)


def median_picture(frames: Pixels) -> Pixels:
    """(H, W, 3) uint8 median of frames (T, H, W, 3); of an even number the lower of two, as their mean is a ghost."""
    middle = (len(frames) - 1) // 2
    return np.asarray(np.partition(frames, middle, axis=0)[middle], np.uint8)


def network_inputs(frames: Pixels, before: Pixels, after: Pixels, scenery: Scenery) -> Tensor:
    """(T, CHANNELS, H, W) float32.

    Colours of the frame and of the three pictures of the scenery in -1 .. 1; the largest channel difference in 0 .. 2
    to each of these, to the moment before, to the moment after, and between early and late scenery; x and y in -1 .. 1.

    Args:
        frames: (T, H, W, 3).
        before: (T, H, W, 3), the moment before each of them, itself at the clip's start.
        after: (T, H, W, 3), the moment after each of them, itself at the clip's end.
        scenery: of the clip.
    """
    n_frames, height, width = frames.shape[:3]
    out = torch.empty((n_frames, CHANNELS, height, width))
    out[:, 0:3] = _planes(frames)
    pictures = [each[None] for each in (scenery.whole, scenery.early, scenery.late)]
    for number, picture in enumerate(pictures):
        out[:, 3 + 3 * number : 6 + 3 * number] = _planes(picture)
    for channel, other in enumerate((*pictures, before, after), start=12):
        out[:, channel] = _change(frames, other)
    out[:, 17] = _change(pictures[1], pictures[2])
    out[:, 18] = torch.linspace(-1, 1, width)[None, None, :]
    out[:, 19] = torch.linspace(-1, 1, height)[None, :, None]
    return out


def still_inputs(picture: Pixels) -> Tensor:
    """(1, CHANNELS, H, W) of a picture (H, W, 3) in which nothing moves: it is its own scenery and moments."""
    frame = picture[None]
    return network_inputs(frame, frame, frame, Scenery.still(picture))


def _change(one: Pixels, other: Pixels) -> Tensor:
    # Plane by plane: numpy is several times slower along an axis of three.
    planes = [np.maximum(one[..., k], other[..., k]) - np.minimum(one[..., k], other[..., k]) for k in range(3)]
    return torch.from_numpy(np.maximum(np.maximum(planes[0], planes[1]), planes[2]).astype(np.float32) / 127.5)


def _planes(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1)
