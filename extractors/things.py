"""Things beside the manipulated one, each with a number that it keeps through the clip."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.types import Frames, Things

MOST = 254
"""Things of a clip: uint8 has no more numbers, and 255 is left to readers as "ignore"."""

LEAST_PX = 16
"""Smaller spots are noise of a border, no thing."""

SAME = 0.5
"""Share of a mask that lies on another from which both show the same thing."""

Bools = NDArray[np.bool_]


def resting_things(seen: Bools, covered: Bools) -> NDArray[np.uint8]:
    """(T, H, W) numbers of things that stay where they are, the largest first; 0 none.

    A thing is a connected place that shows one in most frames in which nothing is before it. Things that touch in the
    image are one.

    Args:
        seen: (T, H, W), where a frame shows any thing.
        covered: (T, H, W), where robot or object is.
    """
    shown = seen & ~covered
    places = 2 * shown.sum(axis=0) > (~covered).sum(axis=0)
    count, found, stats, _ = cv2.connectedComponentsWithStats(places.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    by_size = [place for place in np.argsort(-areas[1:], kind="stable") + 1 if areas[place] >= LEAST_PX][:MOST]
    numbers = np.zeros(count, np.uint8)
    numbers[by_size] = np.arange(1, len(by_size) + 1)
    return np.asarray(numbers[found] * shown, np.uint8)


def named_things(found: Sequence[tuple[Frames, str]], covered: Bools) -> Things:
    """Masks of T frames (H, W) and their names as things, in their order, without the pixels of `covered` (T, H, W).

    A mask that mostly lies on `covered`, or on a thing before it, shows what is known already; a name that comes with
    it is given to a thing without one.
    """
    labels, names = np.zeros(covered.shape, np.uint8), [""]
    for masks, name in found:
        own = np.stack([np.asarray(mask, np.bool_) for mask in masks])
        area = int(own.sum())
        if area == 0 or (own & covered).sum() > SAME * area:
            continue
        overlaps = np.bincount(labels[own], minlength=len(names))
        overlaps[0] = 0
        same = int(overlaps.argmax())
        if overlaps[same] > SAME * area:
            names[same] = names[same] or name
        elif len(names) <= MOST:
            labels[own & (labels == 0) & ~covered] = len(names)
            names.append(name)
    return Things(labels, tuple(names))
