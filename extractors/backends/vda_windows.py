"""The long-video scheme of Video-Depth-Anything: which frames a window sees, and how its maps join the clip.

Windows of 32 frames follow each other every 22. A later window starts with ten frames of the one before (its key
frames), so slot 0 is the clip's first frame for ever; scale and shift are fitted on the two key frames in slots 0
and 1, and eight frames are cross-faded (paper, section 3.3 and figure 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LENGTH = 32
OVERLAP = 10
STEP = LENGTH - OVERLAP
KEYFRAMES = (0, 12, 24, 25, 26, 27, 28, 29, 30, 31)
"""Slots that the next window sees again, in its slots 0 .. 9."""

_BLEND = 8


@dataclass(frozen=True)
class Window:
    """One pass of the temporal layers.

    Attributes:
        start: frame at which the window's own 32 frames begin.
        frames: the frame in each of the 32 slots; behind the clip's end the last frame is repeated.
        decoded: the slots whose maps enter the result or its alignment.
    """

    start: int
    frames: tuple[int, ...]
    decoded: tuple[int, ...]

    @property
    def kept(self) -> set[int]:
        """Frames that the next window sees again."""
        return {self.frames[slot] for slot in KEYFRAMES}


def published_windows(n_frames: int) -> int:
    """Windows that the published scheme runs, each encoding 32 frames: one every 22 frames."""
    return -(-n_frames // STEP)


def plan_windows(n_frames: int) -> list[Window]:
    """The windows whose maps reach the result.

    That leaves out a last window that the published scheme runs for nothing: one that starts at most three frames
    before the end enters only with slot 2, whose weight in the cross-fade is 0.
    """
    windows: list[Window] = []
    for start in range(0, n_frames, STEP):
        if start > 0 and start + 3 >= n_frames:
            break
        frames = [min(start + slot, n_frames - 1) for slot in range(LENGTH)]
        seen = range(min(LENGTH, n_frames - start))
        decoded = tuple(seen)
        if windows:
            frames[:OVERLAP] = [windows[-1].frames[slot] for slot in KEYFRAMES]
            decoded = (0, 1, *seen[3:])  # slots 0 and 1 to fit scale and shift
        windows.append(Window(start, tuple(frames), decoded))
    return windows


class Stitcher:
    """Joins the windows of one clip, holding no more than a window of maps.

    Attributes:
        scale_shift: (scale, shift) fitted for each window after the first.
    """

    def __init__(self, windows: list[Window], *, align: bool = True) -> None:
        """`align` False keeps scale 1 and shift 0 (metric checkpoints)."""
        self.scale_shift: list[tuple[float, float]] = []
        self._windows = windows
        self._align = align
        self._next = 0
        self._reference: Tensor  # 2 H W
        self._pending: Tensor  # up to 8 maps that the next window is blended into

    def add(self, raw: Tensor) -> Tensor:
        """Frames finished by the next window.

        Args:
            raw: (len(wanted), H, W) float32, the maps of the window's wanted slots at source size.

        Returns:
            (k, H, W) float32, the next k frames of the clip; k is never 0.
        """
        window, last = self._windows[self._next], self._next + 1 == len(self._windows)
        maps = raw if self._next == 0 else self._joined(raw)
        first = window.start + 2 if self._next else 0
        self._next += 1
        if last:
            return maps
        if window.start == 0:
            self._reference = raw[[0, KEYFRAMES[1]]]
        else:
            self._reference[1] = maps[window.start + KEYFRAMES[1] - first]
        done = window.start + STEP + 2 - first
        self._pending = maps[done:]
        return maps[:done]

    def _joined(self, raw: Tensor) -> Tensor:
        """Frames start + 2 .. of the clip: the pending ones, faded into this window's, then its new ones."""
        scale, shift = fit_scale_shift(raw[:2], self._reference) if self._align else (1.0, 0.0)
        self.scale_shift.append((scale, shift))
        aligned = (scale * raw[2:] + shift).clamp_(min=0)  # slots 3 ..
        n_faded = len(self._pending) - 1
        weight = torch.arange(1, n_faded + 1, device=raw.device, dtype=raw.dtype)[:, None, None] / (_BLEND - 1)
        faded = self._pending[1:] * (1 - weight) + aligned[:n_faded] * weight
        return torch.cat([self._pending[:1], faded, aligned[n_faded:]])


def fit_scale_shift(prediction: Tensor, target: Tensor) -> tuple[float, float]:
    """Least-squares (scale, shift) that take `prediction` to `target`, over all pixels; (1, 0) for a flat prediction.

    The sums are float64: the published float32 ones give the same to 1e-5, and leave rounding where a flat map should
    give a determinant of 0.
    """
    p, t = prediction.double(), target.double()
    mean_p, mean_t = p.mean(), t.mean()
    variance = ((p - mean_p) ** 2).mean()
    if float(variance) <= 1e-12 * float(mean_p**2):
        return 1.0, 0.0
    scale = ((p - mean_p) * (t - mean_t)).mean() / variance
    return float(scale), float(mean_t - scale * mean_p)
