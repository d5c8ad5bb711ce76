"""Depth by the nano network: the background once a clip, and then only what moves before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.nano.clips import (
    answers,
    background_depth,
    clip_scenery,
    read_context,
    working_frames,
    working_size,
)
from extractors.backends.nano.inputs import Pixels, Scenery
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.packaged import PACKAGED
from extractors.backends.nano.weights import load_network
from extractors.camera_motion import clip_camera_motion
from extractors.geometry import fit_scale_shift
from extractors.moments import nearest_moment
from extractors.steadying import steadied
from extractors.types import Depth, Frames, OnCpu, Size, check_pixels

Floats = NDArray[np.float32]


class NanoDepth(OnCpu):
    """Relative inverse depth of tabletop clips.

    With a still camera the clip's median background gets one depth map, and each frame shows its own depth only where
    the network sees the robot or the thing that it handles: the rest cannot flicker. Where the camera moves, the clip
    is seen as from one frame (`extractors.steadying`), or else each frame is its own background.
    """

    def __init__(self, weights: Path = PACKAGED, *, working_px: int = 160) -> None:
        """Loads the weights; `working_px` is the longer side that the network sees.

        Raises:
            WeightsError: they are damaged.
        """
        self.working_px = working_px
        self._network = load_network(weights)

    def estimate(self, pixels: Frames, *, size: Size) -> Depth:
        """See `DepthEstimator`; the report says whether the camera moves, and how much of the clip moves before it."""
        n_frames, height, width = check_pixels(pixels)
        frames = working_frames(pixels, working_size((height, width), self.working_px))
        moves = bool(clip_camera_motion(frames).moving)
        steady = steadied(pixels) if moves else None
        if steady is not None:
            values, share = self._over_background(working_frames(steady, frames.shape[1:3]), size)
            found = np.flatnonzero(steady.found)
            values = steady.back(values)[found[nearest_moment(found, n_frames)]]
        elif moves:
            values, share = self._frame_by_frame(frames, size)
        else:
            values, share = self._over_background(frames, size)
        values -= values.min()
        report: dict[str, Any] = {
            "backend": "nano",
            "frames": n_frames,
            "working_size": list(frames.shape[1:3]),
            "camera_moves": moves,
            "moving_share": round(share, 4),
        }
        if steady is not None:
            report["steadied"] = int(steady.found.sum())
        return Depth(values, "relative", report)

    def _over_background(self, frames: Pixels, size: Size) -> tuple[Floats, float]:
        scenery = clip_scenery(frames)
        context = read_context(self._network, frames, scenery)
        still = background_depth(self._network, scenery.whole, context)
        values = np.full((len(frames), *size), np.nan, np.float32)
        moving, total, count = 0.0, np.zeros_like(still), np.zeros_like(still)
        for frame, (shares, depth) in enumerate(answers(self._network, frames, scenery, context)):
            before = shares[CLASSES.index("robot")] + shares[CLASSES.index("object")]
            moving += float((before > 0.5).mean()) / len(frames)
            over, behind = _resized(before, size) > 0.5, before < 0.1
            depth = _on_scale(depth, still, behind)
            total, count = total + np.where(behind, depth, 0), count + behind
            values[frame][over] = _resized(depth, size)[over]
        # The median picture's own depth is for the scale alone: a mean of many frames errs less.
        background = np.where(count > 0, total / np.maximum(count, 1), still)
        np.copyto(values, _resized(background, size), where=np.isnan(values))
        return values, moving

    def _frame_by_frame(self, frames: Pixels, size: Size) -> tuple[Floats, float]:
        values = np.empty((len(frames), *size), np.float32)
        for number, frame in enumerate(frames):
            alone = frame[None]
            depth = background_depth(self._network, frame, read_context(self._network, alone, Scenery.still(frame)))
            values[number] = _resized(depth, size)
        return values, 1.0


def _on_scale(depth: Floats, still: Floats, same: NDArray[np.bool_]) -> Floats:
    """A frame's depth on the background's scale, by the pixels in which both show the same."""
    if same.mean() < 0.05:
        return depth
    fit = fit_scale_shift(depth[same][::7], still[same][::7], iterations=10)
    scale, shift = float(fit.scale), float(fit.shift)
    # A flat picture tells no scale; near must stay near.
    return depth if not np.isfinite(scale) or scale <= 0 else np.asarray(depth * scale + shift, np.float32)


def _resized(maps: Floats, size: Size) -> Floats:
    enlarged = maps.shape[0] <= size[0] and maps.shape[1] <= size[1]
    how = cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA
    return np.asarray(cv2.resize(maps, (size[1], size[0]), interpolation=how), np.float32)
