"""Which pixels of the home image go with a set of points that is followed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.motion.following import Motion, carry, point_cost
from extractors.backends.motion.scene import Bools, Floats, Scene
from extractors.geometry import dilate, sample_indices
from extractors.types import Size


def find_extent(scene: Scene, motions: Motion, matched: Bools, points: Floats, departure: int) -> Bools:
    """(h, w) bool: the home pixels near `points` that "moves with the proposal" explains better than "stays"."""
    out = np.zeros(scene.size, np.bool_)
    moments = moved_moments(scene, motions, matched, points, departure)
    if not len(moments):
        return out
    where = window_around(points, scene.size, scene.px(0.1))
    carried, stays = layer_costs(scene, motions, moments, where)
    mask = (carried < 16) & (carried < stays - 3) & (scene.stillness[where] > 0.4)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(2))
    out[where] = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(1)) > 0
    seeds = np.zeros(scene.size, np.bool_)
    columns, rows = points.astype(int).T
    seeds[rows, columns] = True
    regions, _ = ndimage.label(out)
    kept = np.unique(regions[dilate(seeds, 1) & out])
    filled: Bools = ndimage.binary_fill_holes(np.isin(regions, kept) & out)
    return filled


def moved_moments(
    scene: Scene, motions: Motion, matched: Bools, points: Floats, departure: int, most: int = 14
) -> NDArray[np.int64]:
    """Up to `most` moments, which bounds the work, in which the points are matched and clearly away from home."""
    centre = points.mean(axis=0)[None]
    way = np.array([np.linalg.norm(carry(motion, centre) - centre) for motion in motions[departure:]])
    moments = departure + np.flatnonzero((way > scene.px(0.015)) & matched[departure:])
    return moments[sample_indices(len(moments), most)]


def layer_costs(
    scene: Scene, motions: Motion, moments: NDArray[np.int64], where: tuple[slice, slice]
) -> tuple[Floats, Floats]:
    """Costs (h', w') of "moves with the proposal" and "stays", grey levels: the better 40 % of `moments` count."""
    rows, columns = np.mgrid[where]
    points = np.stack([columns, rows], -1).reshape(-1, 2).astype(np.float32)
    colours = scene.home[where].reshape(-1, 3)
    carried = np.stack(
        [
            point_cost(scene.pixels[t].astype(np.float32), scene.blurred(t), carry(motions[t], points), colours)
            for t in moments
        ]
    ).reshape(len(moments), *rows.shape)
    stays = np.minimum(scene.distance[moments][:, where[0], where[1]].astype(np.float32), 50)
    n_best = max(1, round(0.4 * len(moments)))

    def summary(costs: Floats) -> Floats:
        best = np.sort(costs, axis=0)[:n_best].mean(axis=0).astype(np.float32)
        return np.asarray(cv2.GaussianBlur(best, (0, 0), 0.8), np.float32)

    return summary(carried), summary(stays)


def window_around(points: Floats, size: Size, margin: float) -> tuple[slice, slice]:
    """Rows and columns around `points`, `margin` pixels wider where the image goes on."""
    low = np.maximum(points.min(axis=0) - margin, 0).astype(int)
    high = np.minimum(points.max(axis=0) + margin + 1, [size[1], size[0]]).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
