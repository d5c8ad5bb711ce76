"""What the network sees of a frame: colours, the clip's background, what changed, and where the pixel is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


def median_background(frames: Pixels) -> Pixels:
    """(H, W, 3) uint8 median of frames (T, H, W, 3)."""
    return np.asarray(np.median(frames, axis=0), np.uint8)


def network_inputs(frames: Pixels, before: Pixels, after: Pixels, background: Pixels) -> Tensor:
    """(T, 11, H, W) float32.

    Colours of the frame and of the background in -1 .. 1; the largest channel difference in 0 .. 2 to the background,
    to the moment before and to the moment after; x and y in -1 .. 1.

    Args:
        frames: (T, H, W, 3).
        before: (T, H, W, 3), the moment before each of them, itself at the clip's start.
        after: (T, H, W, 3), the moment after each of them, itself at the clip's end.
        background: (H, W, 3).
    """
    n_frames, height, width = frames.shape[:3]
    out = torch.empty((n_frames, 11, height, width))
    out[:, 0:3] = _planes(frames)
    out[:, 3:6] = _planes(background[None])
    for channel, other in ((6, background[None]), (7, before), (8, after)):
        change = np.abs(frames.astype(np.int16) - other).max(-1)
        out[:, channel] = torch.from_numpy(change.astype(np.float32) / 127.5)
    out[:, 9] = torch.linspace(-1, 1, width)[None, None, :]
    out[:, 10] = torch.linspace(-1, 1, height)[None, :, None]
    return out


def _planes(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1)
