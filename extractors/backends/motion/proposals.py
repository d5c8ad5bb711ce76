"""What may be the object: what a network sees as such while it rests, with the border that its motion gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.motion.extent import find_extent
from extractors.backends.motion.following import follow
from extractors.backends.motion.scene import Bools, Floats, MotionSettings, Scene, watch
from extractors.moments import RATE

SLACK = round(0.6 * RATE)
"""Moments in 0.6 s: a departure is no more exact than that."""

LEAST_SHARE = 0.4
"""Of what the network sees as the object at a place, on average while it rests; docs/nano.md says how it was set."""

TOLERANCES = (20.0, 13.0)
"""Colour differences up to which the followed pixels match a moment, at the first and at the second look."""


@dataclass(slots=True, eq=False)
class Proposal:
    """What may be the object.

    Attributes:
        points: (N, 2) home pixels (x, y).
        departure: first moment in which it has left home.
        extent: (h, w) bool, its pixels at home.
    """

    points: Floats
    departure: int
    extent: Bools


def find_proposal(
    pixels: NDArray[np.uint8], seen: NDArray[np.float16], settings: MotionSettings
) -> tuple[Scene, Proposal | None]:
    """The scene and what may be the object, from moments (T, h, w, 3) and the object's share (T, h, w) in them.

    The home image is made from the first two fifths of the moments. Where the proposal leaves home much later, it is
    made again from all moments until then: the longer the window, the fewer places hide behind the arm.
    """
    window = round(0.4 * len(pixels))
    for _ in range(2):
        window = min(max(window, 2 * SLACK), len(pixels))
        scene = watch(pixels, window, settings)
        place = _resting_place(scene, seen)
        proposal = None if place is None else _proposal(scene, place)
        if proposal is None or proposal.departure <= window + SLACK:
            break
        window = proposal.departure - 1
    return scene, proposal


def _resting_place(scene: Scene, seen: NDArray[np.float16]) -> Bools | None:
    """(h, w) bool, where the object is seen most while it rests; None where it is seen at rest nowhere."""
    departure = max(scene.n_moments // 3, 2)
    place = _seen_place(scene, seen[:departure])
    # What is seen until the departure tells the place, and the place the departure.
    for _ in range(2):
        if not place.any() or (left := _departure(scene, place)) == departure:
            break
        departure = left
        place = _seen_place(scene, seen[:departure], near=place)
    return place if place.sum() >= scene.smallest else None


def _seen_place(scene: Scene, seen: NDArray[np.float16], *, near: Bools | None = None) -> Bools:
    """(h, w) bool, of the connected places with `LEAST_SHARE` of the object on average that with most of it.

    With `near`, that which shares most pixels with it. Where nothing rests is none.
    """
    share = seen.mean(axis=0, dtype=np.float32)
    labels, _ = ndimage.label((share > LEAST_SHARE) & (scene.stillness > 0.3))
    total = np.bincount(labels.ravel(), weights=(share if near is None else near).ravel())
    total[0] = 0.0
    return np.asarray((labels == total.argmax()) & (labels > 0), np.bool_)


def _proposal(scene: Scene, place: Bools) -> Proposal | None:
    """The place followed, and the home pixels that go with it, twice; None where none do."""
    points, departure = _pixels(place), _departure(scene, place)
    for tolerance in TOLERANCES:
        motions, cost = follow(scene, points, range(max(departure - 1, 0), scene.n_moments))
        extent = find_extent(scene, motions, cost < tolerance, points, departure)
        if extent.sum() < scene.smallest:
            return None
        points, departure = _pixels(extent), _departure(scene, extent)
    return Proposal(points, departure, extent)


def _pixels(region: Bools) -> Floats:
    """(N, 2) pixels (x, y) of a region (h, w)."""
    rows, columns = np.nonzero(region)
    return np.stack([columns, rows], -1).astype(np.float32)


def _departure(scene: Scene, region: Bools) -> int:
    return int(np.clip(np.percentile(scene.departure[region], 25), 1, scene.n_moments - 1))
