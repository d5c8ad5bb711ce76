"""Points on the robot, followed from frame to frame: what the camera is calibrated by.

What holds an object's points together over a clip (affine layers, `lucas-kanade`) bends those of a hand that turns:
focal lengths came out 10 to 17 % too long on generated clips. Followed by themselves, points drift, the less the sooner
they are given up; so few are posed at a time, in frames all over the clip. And they are followed in pictures of the
robot alone: a window with some of the still scene in it holds a point back, 2 % of its way (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import bounding_box
from extractors.track_queries import robot_queries
from extractors.types import Tracks

WINDOW, LOOP = 0.05, 0.003
"""Side of the window that is matched (11 pixels at 224), and farthest that a match and its way back may end from where
they began (0.7 pixels); shares of the frame's side, which is the root of its area."""

MARGIN, REACH = 0.009, 0.016
"""How far beyond its mask the robot's own pixels are kept (2 pixels at 224: masks are rough), and how far its colours
reach out from there (deviation of a normal distribution); shares of the frame's side."""


def follow_robot(pixels: NDArray[np.uint8], masks: NDArray[np.bool_], *, count: int, seed: int = 0) -> Tracks:
    """Tracks of `count` points posed on the robot, by pyramidal Lucas-Kanade in colour, both ways from their frame.

    A point is visible until it first leaves the picture or its match does not lead back, and is given up from then on:
    it stays where it was last seen.

    Args:
        pixels: (T, H, W, 3) RGB.
        masks: (T, H, W) of the robot, True somewhere.
        count: points.
        seed: fixes where they are posed.
    """
    queries = robot_queries(masks, count=count, seed=seed)
    pixels = _robot_alone(pixels, masks)
    frame_of = queries[:, 0].astype(int)
    xy = np.repeat(queries[None, :, 1:], len(pixels), axis=0)
    visible = frame_of == np.arange(len(pixels))[:, None]
    for order in (range(len(pixels)), range(len(pixels) - 1, -1, -1)):
        _follow(pixels, order, frame_of, xy, visible)
    score = visible.astype(np.float32)
    return Tracks(xy, visible, score, score, queries)


def _robot_alone(pixels: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(T, H, W, 3) the robot before its own colours, blurred: an edge that stays still would be matched too."""
    side = float(np.sqrt(pixels.shape[1] * pixels.shape[2]))
    margin, reach = round(MARGIN * side), max(REACH * side, 1.0)
    around = np.ones((2 * margin + 1,) * 2, np.uint8)
    beyond = margin + round(4 * reach)
    alone = pixels.copy()
    for frame, mask in zip(alone, masks, strict=True):
        if not mask.any():
            continue
        # Farther out no window with the robot in it reaches.
        near = bounding_box(mask, beyond)
        kept = cv2.dilate(mask[near].astype(np.uint8), around).astype(np.float32)
        colours = cv2.GaussianBlur(frame[near] * kept[..., None], (0, 0), reach)
        colours /= cv2.GaussianBlur(kept, (0, 0), reach)[..., None] + 1e-3
        frame[near] = np.where(kept[..., None] > 0, frame[near], colours).astype(np.uint8)
    return alone


def _follow(
    pixels: NDArray[np.uint8],
    order: Sequence[int],
    frame_of: NDArray[np.int_],
    xy: NDArray[np.float32],
    visible: NDArray[np.bool_],
) -> None:
    """Fills `xy` (T, N, 2) and `visible` (T, N) on the way through `order` from the frame of each point on."""
    height, width = pixels.shape[1:3]
    side = float(np.sqrt(height * width))
    options: dict[str, Any] = {"winSize": (max(2 * round(WINDOW * side / 2) + 1, 5),) * 2, "maxLevel": 3}
    posed, alive = np.zeros((2, len(frame_of)), np.bool_)
    for before, frame in pairwise(order):
        posed |= frame_of == before
        alive |= frame_of == before
        xy[frame, posed] = xy[before, posed]
        points = np.flatnonzero(alive)
        if not len(points):
            continue
        start = np.ascontiguousarray(xy[before, points][:, None])
        there, found, _ = cv2.calcOpticalFlowPyrLK(pixels[before], pixels[frame], start, None, **options)  # type: ignore[call-overload]
        home, back, _ = cv2.calcOpticalFlowPyrLK(pixels[frame], pixels[before], there, None, **options)  # type: ignore[call-overload]
        off = np.linalg.norm((home - start)[:, 0], axis=1)
        inside = ((there[:, 0] > -0.5) & (there[:, 0] < (width - 0.5, height - 0.5))).all(axis=1)
        kept = (found[:, 0] > 0) & (back[:, 0] > 0) & (off < LOOP * side) & inside
        xy[frame, points[kept]], visible[frame, points[kept]] = there[kept, 0], True
        alive[points] = kept
