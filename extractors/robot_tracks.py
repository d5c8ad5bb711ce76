"""Points on the robot, followed from frame to frame: what the camera is calibrated by.

What holds an object's points together over a clip (affine layers, `lucas-kanade`) bends those of a hand that turns:
focal lengths came out 10 to 17 % too long on generated clips. Followed by themselves, points drift, the less the sooner
they are given up; so few are posed at a time, in frames all over the clip. And they are followed in pictures of the
robot alone: a window with some of the still scene in it holds a point back, 2 % of its way (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extractors.matching import LOOP, frame_side, matched, window_px
from extractors.track_queries import robot_queries
from extractors.types import Tracks


def follow_robot(alone: NDArray[np.uint8], masks: NDArray[np.bool_], *, count: int, seed: int = 0) -> Tracks:
    """Tracks of `count` points posed on the robot, by pyramidal Lucas-Kanade in colour, both ways from their frame.

    A point is visible until it first leaves the picture or its match does not lead back, and is given up from then on:
    it stays where it was last seen.

    Args:
        alone: (T, H, W, 3) RGB, as `body_alone` gives them.
        masks: (T, H, W) of the robot, True somewhere.
        count: points.
        seed: fixes where they are posed.
    """
    queries = robot_queries(masks, count=count, seed=seed)
    frame_of = queries[:, 0].astype(int)
    xy = np.repeat(queries[None, :, 1:], len(alone), axis=0)
    visible = frame_of == np.arange(len(alone))[:, None]
    for order in (range(len(alone)), range(len(alone) - 1, -1, -1)):
        _follow(alone, order, frame_of, xy, visible)
    score = visible.astype(np.float32)
    return Tracks(xy, visible, score, score, queries)


def _follow(
    alone: NDArray[np.uint8],
    order: Sequence[int],
    frame_of: NDArray[np.int_],
    xy: NDArray[np.float32],
    visible: NDArray[np.bool_],
) -> None:
    """Fills `xy` (T, N, 2) and `visible` (T, N) on the way through `order` from the frame of each point on."""
    height, width = alone.shape[1:3]
    side = frame_side(alone)
    posed, alive = np.zeros((2, len(frame_of)), np.bool_)
    for before, frame in pairwise(order):
        posed |= frame_of == before
        alive |= frame_of == before
        xy[frame, posed] = xy[before, posed]
        points = np.flatnonzero(alive)
        if not len(points):
            continue
        there, kept = matched(
            alone[before], alone[frame], xy[before, points], window_px(side), levels=3, loop=LOOP * side
        )
        kept &= ((there > -0.5) & (there < (width - 0.5, height - 0.5))).all(axis=1)
        xy[frame, points[kept]], visible[frame, points[kept]] = there[kept], True
        alive[points] = kept
