"""Query points: a uniform grid, and points on the object and off it, drawn from its mask."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.types import Size

Posed = Literal["anywhere", "grid", "object"]
"""Where queries are: evenly over the picture, on one object for the most part, or it is not known."""


def grid_queries(size: Size, *, side: int = 20, frame: int = 0) -> NDArray[np.float32]:
    """A uniform grid, (side * side, 3) float32 as (frame, x, y) in pixels of `size`, row by row.

    The points are the centres of `side` x `side` equal cells that fill the picture.
    """
    if side < 1 or frame < 0:
        raise ShapeError(f"a grid needs at least one point a side and a frame from 0, got side={side} frame={frame}")
    height, width = size
    cells = np.arange(side) + 0.5
    y, x = np.meshgrid(cells * height / side - 0.5, cells * width / side - 0.5, indexing="ij")
    return np.stack([np.full(x.size, frame), x.ravel(), y.ravel()], axis=1).astype(np.float32)


def object_queries(
    masks: NDArray[np.bool_],
    *,
    count: int = 400,
    share: float = 0.6,
    seed: int = 0,
    growth: float = 1.5,
    max_later: int = 3,
    later_share: float = 0.25,
) -> NDArray[np.float32]:
    """The object's part of a set of `count` query points, about `share` of them; the rest is left for the background.

    They are posed on the first frame that shows the object well (at least half of its 90th percentile area), and
    again, in place of background points, on later frames that show `growth` times more of it. They are spread over
    the mask and keep off its border where the object is big enough.

    Args:
        masks: (T, h, w) bool, True on the object.
        count: points of the whole set.
        share: part of `count` on the object, in [0, 1]; all of it where the first frame shows no background.
        seed: fixes the draw; equal arguments give equal points.
        growth: factor in visible area that is worth posing again.
        max_later: most frames on which points are posed again.
        later_share: points posed again on each of them, as a part of those posed first.

    Returns:
        (N, 3) float32 as (frame, x, y) in mask pixels with sub-pixel positions, N at most `count`; each lies within a
        pixel of the mask of its frame.

    Raises:
        ShapeError: `masks` is not (T, h, w) bool, or `count` or `share` is out of range.
        GeometryError: the mask is empty in every frame; the caller leaves the set out.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_ or not masks.size:
        raise ShapeError(f"masks must be (T, h, w) bool, got {masks.shape} {masks.dtype}")
    if count < 1 or not 0.0 <= share <= 1.0:
        raise ShapeError(f"wanted count >= 1 and share in [0, 1], got count={count} share={share}")
    if not masks.any():
        raise GeometryError("no frame of the mask shows the object; leave the foreground set out for this clip")
    n_object = count if masks[0].all() else round(count * share)
    first, later = _posing_frames(masks.sum(axis=(1, 2)), growth, max_later)
    parts, spare = [(first, n_object)], count - n_object
    for frame in later:
        extra = min(round(later_share * n_object), spare)
        parts.append((frame, extra))
        spare -= extra
    rng = np.random.default_rng(seed)
    return np.concatenate([spread_queries(frame, interior(masks[frame]), n, rng) for frame, n in parts])


def robot_queries(masks: NDArray[np.bool_], *, count: int, seed: int = 0, n_frames: int = 8) -> NDArray[np.float32]:
    """`count` query points on the robot, spread over it in `n_frames` frames that are spread over those that show it.

    Frames count that show at least half of its 90th percentile area: a hand that comes into view only later has its
    points all the same, and one that turns has some on each of its sides.

    Args:
        masks: (T, h, w) bool, True on the robot in at least one frame.
        count: points.
        seed: fixes the draw; equal arguments give equal points.
        n_frames: most frames on which they are posed.

    Returns:
        (count, 3) float32 as (frame, x, y) in mask pixels; each lies within a pixel of the mask of its frame.
    """
    shown = np.flatnonzero(_shows_well(masks.sum(axis=(1, 2))))
    ends = np.linspace(0, len(shown) - 1, n_frames + 2).round().astype(int)
    frames = np.unique(shown[ends[1:-1]]).tolist()
    rng = np.random.default_rng([seed, *b"robot"])  # another draw than the object's
    counts = np.diff(np.linspace(0, count, len(frames) + 1).round().astype(int)).tolist()
    parts = [spread_queries(frame, interior(masks[frame]), n, rng) for frame, n in zip(frames, counts, strict=True)]
    return np.concatenate(parts)


def background_points(
    mask: NDArray[np.bool_], tracked: NDArray[np.float32], count: int, *, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Points off the object on the first frame: of those that are tracked anyway first, spread out.

    Args:
        mask: (h, w) bool of the first frame.
        tracked: (K, 2) points (x, y) in mask pixels that are tracked on the first frame already.
        count: points wanted.
        seed: fixes the draw.

    Returns:
        Numbers of the `tracked` points that serve, those spread most first, and (n, 3) queries in mask pixels for the
        rest.
    """
    ground = away(mask)
    x, y = np.rint(tracked).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    usable = np.flatnonzero(inside)
    usable = usable[ground[y[usable], x[usable]]]
    rng = np.random.default_rng([seed, *b"background"])  # another draw than the object's
    chosen = usable[rng.permutation(len(usable))]
    chosen = chosen[_farthest_first(tracked[chosen].astype(np.float64), min(count, len(chosen)))]
    return chosen, spread_queries(0, ground, count - len(chosen), rng)


def spread_queries(frame: int, where: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(count, 3) queries (frame, x, y) inside the True pixels of `where`, each far from those drawn before it."""
    if count == 0:
        return np.empty((0, 3), np.float32)
    y, x = np.nonzero(where)
    # Eight candidates a point are spread nearly as well as all pixels are, and bound the work.
    n_candidates = max(8 * count, 64)
    picked = rng.permutation(len(x))[:n_candidates]
    picked = np.resize(picked, n_candidates)
    jitter = rng.uniform(-0.49, 0.49, size=(n_candidates, 2))
    candidates = np.stack([x[picked], y[picked]], axis=1) + jitter
    xy = candidates[_farthest_first(candidates, count)]
    return np.concatenate([np.full((count, 1), frame), xy], axis=1).astype(np.float32)


def interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) bool, where points of the object are posed: off the border of `mask` unless little would be left."""
    # Border points see more background than object; 2 px keeps a tracker's inner window clear of it.
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inner = np.asarray(depth >= 2.0, dtype=np.bool_)
    return inner if inner.sum() >= 0.4 * mask.sum() else mask


def away(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) bool, where points of the background are posed: off `mask`, at some distance unless nothing is left."""
    # A mask is rarely right to the pixel: background points keep 3 px off, unless nothing is left then.
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return ~mask if grown.all() else np.asarray(~grown, dtype=np.bool_)


def rescale_queries(queries: NDArray[np.float32], source: Size, target: Size) -> NDArray[np.float32]:
    """`queries` (N, 3) as (frame, x, y) of frames of size `source`, in pixels of frames of size `target`."""
    xy = rescale_points(queries[:, 1:], source, target)
    return np.concatenate([queries[:, :1].astype(np.float32), xy], axis=1)


def rescale_points(xy: NDArray[np.floating], source: Size, target: Size) -> NDArray[np.float32]:
    """Points (..., 2) of frames of size `source` in pixels of frames of size `target`: x' = (x + 0.5) W' / W - 0.5."""
    scale = np.array([target[1] / source[1], target[0] / source[0]])
    return np.asarray((np.asarray(xy, np.float64) + 0.5) * scale - 0.5, dtype=np.float32)


def check_queries(queries: NDArray[np.floating], n_frames: int, size: Size) -> None:
    """Raises ShapeError unless `queries` are (N, 3) finite numbers (frame, x, y) inside `n_frames` frames of `size`."""
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != 3 or not np.issubdtype(queries.dtype, np.floating):
        raise ShapeError(f"queries must be (N, 3) floats as (frame, x, y), got {queries.shape} {queries.dtype}")
    if not np.isfinite(queries).all():
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        raise ShapeError(f"queries must be finite, but {len(bad)} are not (first: number {bad[0]}); leave them out")
    frame, x, y = queries.T
    height, width = size
    inside = (frame >= 0) & (frame < n_frames) & (frame == np.floor(frame))
    inside &= (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    if not inside.all():
        bad = np.flatnonzero(~inside)
        raise ShapeError(
            f"queries must be in frames 0..{n_frames - 1} of {width}x{height} pixels, but {len(bad)} do not "
            f"(first: number {bad[0]}, {queries[bad[0]].tolist()}); check their frame size"
        )


def _shows_well(area: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(T,) whether a frame shows at least half of the 90th percentile of the `area` (T,) where it is shown at all."""
    return np.asarray(area >= max(0.5 * float(np.quantile(area[area > 0], 0.9)), 1.0))


def _posing_frames(area: NDArray[np.integer], growth: float, max_later: int) -> tuple[int, list[int]]:
    """The frame to pose the object's queries on first, and later ones that show much more of it."""
    first = int(np.argmax(_shows_well(area)))
    gain = float(area[first:].max() / area[first])
    steps = min(int(np.log(gain) / np.log(growth)), max_later) if gain > 1.0 else 0
    later: list[int] = []
    for step in range(1, steps + 1):
        least_area = area[first] * gain ** (step / steps) * (1.0 - 1e-9)
        later.append(first + int(np.argmax(area[first:] >= least_area)))
    return first, sorted(set(later) - {first})


def _farthest_first(candidates: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Numbers of `count` of the `candidates` (K, 2): the first, then always the one farthest from those chosen."""
    chosen = np.zeros(count, dtype=np.intp)
    if count == 0:
        return chosen
    nearest = np.linalg.norm(candidates - candidates[0], axis=1)
    for number in range(1, count):
        chosen[number] = int(np.argmax(nearest))
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[number]], axis=1))
    return chosen
