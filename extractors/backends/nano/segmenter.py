"""Masks by the nano network: the thing that is manipulated, and the robot. Fixed cameras only.

Each moment's pixels get a share of being the object; connected in space and time they make tubes. The tube that has
most of it is the object, with those that go on where it is hidden.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.nano.clips import (
    Pixels,
    answers,
    clip_background,
    read_context,
    working_frames,
    working_size,
)
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.weights import load_network
from extractors.camera_motion import clip_camera_motion
from extractors.geometry import resize_rgb
from extractors.moments import moments, nearest_moment, picked
from extractors.types import Episode, Masks, OnCpu, Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

SURE = 0.5
"""Share from which a pixel is the object's: the most likely class."""

BESIDE = 0.25
"""A tube is another part of the object's story while it is there at once with what was taken before for less than this
share of its own moments."""


class NanoSegmenter(OnCpu):
    """Finds the manipulated thing and the robot; see the module's text."""

    def __init__(self, *, working_px: int = 160) -> None:
        """Loads the packaged weights; `working_px` is the longer side that the network sees.

        Raises:
            WeightsError: they are damaged.
        """
        self.working_px = working_px
        self._network = load_network()

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """See `Segmenter`; the report lists the tubes, best first, and the margin. `robot` is always there."""
        at = moments(episode.pixels, episode.fps)
        frames = _at_moments(episode, at, working_size(episode.size, self.working_px))
        report: dict[str, Any] = {"backend": "nano", "camera_motion": False, "candidates": [], "margin": 0.0}
        spread = nearest_moment(at, episode.n_frames)
        if _camera_moves(episode, frames):
            report |= {"camera_motion": True, "reason": "the camera moves; nano masks need a fixed camera"}
            empty = np.zeros((episode.n_frames, *size), np.bool_)
            return Masks(empty, np.zeros(episode.n_frames, np.float32), robot=empty.copy(), report=report)
        background = clip_background(frames)
        context = read_context(self._network, frames, background)
        shares = np.empty(frames.shape[:3], np.float16)
        robot = np.empty((len(frames), *size), np.bool_)
        for moment, (of_classes, _) in enumerate(answers(self._network, frames, background, context)):
            shares[moment] = of_classes[CLASSES.index("object")]
            robot[moment] = _resized(of_classes[CLASSES.index("robot")], size) > SURE
        found, rows = link(shares)
        masses = [*(row["score"] for row in rows), 0.0, 0.0]
        report |= {"candidates": rows, "margin": round(masses[0] - masses[1], 4)}
        masks = np.stack([_at_size(share, mask, size) for share, mask in zip(shares, found, strict=True)])
        if not masks.any():
            report["reason"] = "nano sees nothing that the robot handles"
        score = _confidence(shares, found) * masks.any(axis=(1, 2))
        return Masks(masks[spread], score[spread], robot=(robot & ~masks)[spread], report=report)


def link(shares: NDArray[np.float16], most: int = 50) -> tuple[Bools, list[dict[str, Any]]]:
    """The object's mask in each moment, (T, h, w) bool, and what there was to choose from, best first.

    Args:
        shares: (T, h, w) in [0, 1], of being the object.
        most: tubes that are told and judged.
    """
    tubes, count = ndimage.label(shares > SURE, structure=np.ones((3, 3, 3)))
    if not count:
        return np.zeros(shares.shape, np.bool_), []
    mass = np.bincount(tubes.ravel(), weights=shares.ravel().astype(np.float32), minlength=count + 1)
    mass[0] = 0
    total = float(mass.sum())
    chosen: list[int] = []
    taken = np.zeros(len(shares), np.bool_)
    rows = []
    for tube in np.argsort(-mass)[: min(most, count)].tolist():
        there = np.array([bool((labels == tube).any()) for labels in tubes])
        is_part = not chosen or bool((there & taken).sum() < BESIDE * there.sum())
        if is_part:
            chosen.append(tube)
            taken |= there
        rows.append(
            {
                "name": f"tube {len(rows)}",
                "score": round(float(mass[tube]) / total, 4),
                "moments": int(there.sum()),
                "chosen": is_part,
            }
        )
    return np.isin(tubes, chosen), rows


def _confidence(shares: NDArray[np.float16], found: Bools) -> Floats:
    """(T,) mean share of the mask's pixels, 0 without a mask."""
    area = found.sum(axis=(1, 2))
    inside = np.array([float(each[mask].astype(np.float32).sum()) for each, mask in zip(shares, found, strict=True)])
    return np.asarray(inside / np.maximum(area, 1), np.float32)


def _at_size(share: NDArray[np.float16], mask: Bools, size: Size) -> Bools:
    """The mask (h, w) at `size`, its edge where the share is a half."""
    beside = (share > SURE) & ~mask
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~beside
    return _resized(share.astype(np.float32) * near, size) > SURE


def _at_moments(episode: Episode, at: NDArray[np.int64], size: Size) -> Pixels:
    if len(at) == episode.n_frames:
        return working_frames(episode.pixels, size)
    return np.stack([resize_rgb(np.asarray(frame), size) for frame in picked(episode.pixels, at)])


def _camera_moves(episode: Episode, frames: Pixels) -> bool:
    """As measured on the clip before; here where that was not done. False where the clip shows too little to tell."""
    moving = episode.camera_moves
    return bool(clip_camera_motion(frames).moving if moving is None else moving)


def _resized(share: Floats, size: Size) -> Floats:
    how = cv2.INTER_LINEAR if share.shape[0] <= size[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(share, (size[1], size[0]), interpolation=how), np.float32)
