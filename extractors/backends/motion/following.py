"""Follows a set of pixels of the home image as a whole: one similarity motion per frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.motion.scene import Floats, Scene

Motion = NDArray[np.float64]

SEARCH = 0.055
"""Share of the frame's width by which a step between two moments may differ from the last one."""

_PATCH = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2).astype(np.float32)


def follow(scene: Scene, points: Floats, moments: Sequence[int], most: int = 150) -> tuple[Motion, Floats]:
    """Similarity motions (T, 2, 3) that carry home `points` through `moments`, the first at home; cost (T,).

    In each moment the Lucas-Kanade fit, the best shift near the last step, and rest compete. The cost
    is the mean colour difference of the better half of the points, so that the gripper may hide the other half.
    """
    if len(points) > most:
        points = points[np.linspace(0, len(points) - 1, most).round().astype(int)]
    columns, rows = points.astype(int).T
    colours = scene.home[rows, columns]
    at_home = patches(scene.home, points)
    motions = np.tile(np.eye(2, 3), (scene.n_moments, 1, 1))
    cost = np.zeros(scene.n_moments, np.float32)
    step = np.zeros(2)
    centre = points.mean(axis=0)[None]
    for before, frame in pairwise(moments):
        image, box = scene.pixels[frame].astype(np.float32), scene.blurred(frame)
        tried = [*_flow_fit(scene, before, frame, motions[before], points, at_home, image)]
        n_fits = len(tried)
        tried.append(_search(image, box, motions[before], step, points, colours, scene.px(SEARCH)))
        tried.append(motions[before])
        costs = [_better_half(point_cost(image, box, carry(each, points), colours)) for each in tried]
        # A fit uses texture and sees rotation and scale: it wins where both are as good.
        best = int(np.argmin(np.array(costs) - 1.5 * (np.arange(len(tried)) < n_fits)))
        motions[frame], cost[frame] = tried[best], costs[best]
        step = (carry(motions[frame], centre) - carry(motions[before], centre))[0].astype(np.float64)
        if cost[frame] > scene.settings.appearance:
            step *= 0.5
    return motions, cost


def _flow_fit(
    scene: Scene, before: int, frame: int, motion: Motion, points: Floats, at_home: Floats, image: Floats
) -> Iterable[Motion]:
    start = carry(motion, points)
    flowed = flow(scene, frame, start, before)
    good = patch_error(patches(image, flowed), at_home) < 18
    if good.sum() >= 5:
        yield _fit_similarity(points[good], flowed[good], motion)


def _search(
    image: Floats, box: Floats, motion: Motion, step: Motion, points: Floats, colours: Floats, reach_px: float
) -> Motion:
    """`motion` shifted to where the points match best, searched every second pixel, then every one."""
    start = carry(motion, points) + step.astype(np.float32)
    reach = np.arange(-reach_px, reach_px + 1, 2, dtype=np.float32)
    best = np.zeros(2, np.float32)
    for offsets, price in ((reach, 0.08), (np.arange(-1, 2, dtype=np.float32), 0.0)):
        shifts = best + np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 2)
        cost = _better_half(point_cost(image, box, start[None] + shifts[:, None], colours[None]))
        best = shifts[np.argmin(cost + price * np.linalg.norm(shifts, axis=1))]
    moved = motion.copy()
    moved[:, 2] += step + best
    return moved


def carry(motion: Motion, points: NDArray[Any]) -> Floats:
    """`points` (..., 2) moved by `motion` (2, 3), float32."""
    return np.asarray(points @ motion[:, :2].T + motion[:, 2], np.float32)


def sample(image: NDArray[Any], points: Floats) -> Floats:
    """Bilinear values (...[, C]) of `image` (h, w[, C]) float32 at `points` (..., 2); the border is repeated."""
    flat = points.reshape(-1, 2)
    # remap takes at most 32767 rows or columns.
    rows = -(-len(flat) // 512)
    sheet = np.zeros((rows * 512, 2), np.float32)
    sheet[: len(flat)] = flat
    x, y = (np.ascontiguousarray(sheet[:, axis].reshape(rows, 512)) for axis in (0, 1))
    values = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values = values.reshape(-1, *image.shape[2:])[: len(flat)]
    return np.asarray(values.reshape(*points.shape[:-1], *image.shape[2:]), np.float32)


def point_cost(image: Floats, box: Floats, points: Floats, colours: Floats) -> Floats:
    """(...) colour difference of `image` at `points` from `colours`, exposure discounted, grey levels, at most 50.

    At least 25 where the image shows home (`box`): what the background explains does not match. 50 outside the image.
    """
    found = sample(image, points)
    gain = ((found * colours).sum(axis=-1) / ((colours * colours).sum(axis=-1) + 1)).clip(0.75, 1.2)
    cost = np.minimum(np.abs(found - gain[..., None] * colours).max(axis=-1), 50)
    cost = np.where(sample(box, points) < 10, np.maximum(cost, 25), cost)
    height, width = box.shape
    inside = ((points >= 0) & (points <= np.array([width - 1, height - 1], np.float32))).all(axis=-1)
    return np.where(inside, cost, 50).astype(np.float32)


def _better_half(cost: Floats) -> Floats:
    """(...) mean of the lower half of (..., N)."""
    half = max(cost.shape[-1] // 2, 1)
    return np.asarray(np.partition(cost, half - 1, axis=-1)[..., :half].mean(axis=-1), np.float32)


def flow(scene: Scene, frame: int, points: Floats, before: int) -> Floats:
    """`points` (N, 2) of frame `before` found in `frame` by Lucas-Kanade."""
    start = np.ascontiguousarray(points.reshape(-1, 1, 2), np.float32)
    images = (scene.grey[before], scene.grey[frame])
    moved, _, _ = cv2.calcOpticalFlowPyrLK(
        *images, start, np.empty_like(start), winSize=(11, 11), maxLevel=3, criteria=(3, 15, 0.03)
    )
    return np.asarray(moved.reshape(-1, 2), np.float32)


def patches(image: Floats, points: Floats) -> Floats:
    """(N, 25, 3) colours of the 5 x 5 pixels around each point."""
    return sample(image, points[:, None] + _PATCH)


def patch_error(found: Floats, at_home: Floats) -> Floats:
    """(N,) mean colour difference of patches, exposure discounted, grey levels."""
    gain = ((found * at_home).sum(axis=(1, 2)) / ((at_home * at_home).sum(axis=(1, 2)) + 1)).clip(0.7, 1.25)
    return np.asarray(np.abs(found - gain[:, None, None] * at_home).mean(axis=(1, 2)), np.float32)


def _fit_similarity(points: Floats, found: Floats, start: Motion) -> Motion:
    """Similarity (2, 3) that carries `points` to `found` (N, 2), reweighted by Tukey's biweight (5 pixels)."""
    motion = start.copy()
    motion[:, 2] += np.median(found - carry(motion, points), axis=0)
    for _ in range(6):
        residual = np.linalg.norm(found - carry(motion, points), axis=1)
        weight = np.square(np.maximum(1 - np.square(residual / 5.0), 0))
        if (weight > 0).sum() < 4:
            return motion
        motion = _similarity(points.astype(np.float64), found.astype(np.float64), weight / weight.sum())
    return motion


def _similarity(points: Motion, found: Motion, weight: NDArray[np.float64]) -> Motion:
    """Weighted least-squares similarity, pulled to pure translation by a ridge of 20 px^2 (few, close points)."""
    from_centre, to_centre = weight @ points, weight @ found
    p, q = points - from_centre, found - to_centre
    ridge = 20.0
    spread = weight @ (p * p).sum(axis=1) + ridge
    cosine = (weight @ (p * q).sum(axis=1) + ridge) / spread
    sine = (weight @ (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([turn, (to_centre - turn @ from_centre)[:, None]], axis=1)
