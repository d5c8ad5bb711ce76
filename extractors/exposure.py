"""Frames at one brightness: what a lamp flickers or a shutter adapts is not motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEADY = 0.02
"""A gain this close to 1 is the noise of compression: the frame stays as it is."""

ALIKE, MOST = 0.05, 0.5
"""A frame is brought to the brightness of the middle one if the ratios of most of their pixels are one gain, this
closely: they show one view under another light. Those of a camera that turned away are spread more widely."""

DARKEST, BRIGHTEST = 8, 250
"""Between these a pixel says how bright it is: below are rounding and noise, above a sensor is full."""

_EVERY = 4


def lit_alike(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The images (H, W, 3), each with the median ratio of its pixels to the middle image's taken out, by channel.

    A robot that covers less than half of the picture leaves the median as it is.
    """
    if not len(images):
        return []
    middle = images[len(images) // 2][::_EVERY, ::_EVERY].astype(np.float32)
    return [_lit_as(image, middle) for image in images]


def _lit_as(image: NDArray[np.uint8], other: NDArray[np.float32]) -> NDArray[np.uint8]:
    thinned = image[::_EVERY, ::_EVERY].astype(np.float32)
    inside = (np.minimum(thinned, other) > DARKEST) & (np.maximum(thinned, other) < BRIGHTEST)
    telling = np.asarray(inside.all(axis=2))
    if telling.mean() <= MOST:
        return image
    ratio = other[telling] / thinned[telling]
    gain = np.median(ratio, axis=0)
    one_gain = np.mean(np.abs(ratio / gain - 1).max(axis=1) < ALIKE) > MOST
    if not one_gain or np.abs(gain - 1).max() < STEADY:
        return image
    return np.asarray(np.clip(np.rint(image * gain), 0, 255), np.uint8)
