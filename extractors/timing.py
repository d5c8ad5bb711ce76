"""Seconds in frames: the one place where thresholds in seconds meet a clip's rate."""

from __future__ import annotations

import math

from extractors.errors import GeometryError

WINDOW_S = 0.2
"""Time over which motion is measured, seconds: one step of BridgeData's 5 frames/s, at which the thresholds were set.
A faster clip is looked at over as many frames as this holds, because between two of its frames a tracker's jitter and
a camera's noise outweigh the motion."""


def check_rate(fps: float) -> float:
    """`fps` as a number.

    Raises:
        GeometryError: not a finite number above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise GeometryError(f"a frame rate must be finite and above 0 frames/s, got {fps}; check the source's fps")
    return float(fps)


def frames_in(seconds: float, fps: float, *, least: int = 1) -> int:
    """Whole frames nearest to `seconds`, `least` or more.

    Raises:
        GeometryError: `fps` is not a finite number above 0.
    """
    # Half a frame counts as one, which Python's rounding to even would undo at every second rate.
    return max(least, math.floor(seconds * check_rate(fps) + 0.5))
