"""Point tracks: a uniform grid, and a set that favours the object, from any tracker backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.types import Frames, Size, Tracks


class PreparedClip(Protocol):
    """A clip that a tracker has read once; several query sets share that work."""

    def track(self, queries: NDArray[np.float32]) -> Tracks:
        """As `PointTracker.track`, on the clip that was prepared."""
        ...


class PointTracker(Protocol):
    """Follows query points through one clip, forwards and backwards from the frame each was posed on."""

    def prepare(self, pixels: Frames) -> PreparedClip:
        """The clip, ready for any number of query sets; `pixels` (T, H, W, 3) uint8 RGB, an array or lazy.

        Raises:
            ShapeError: `pixels` is not (T, H, W, 3) with T, H and W at least 1.
        """
        ...

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        """Tracks in pixels of `pixels`; `queries` (N, 3) as (frame, x, y) in the same pixels.

        In its own frame every query is visible and stays exactly where it was posed.

        Raises:
            ShapeError: `pixels` or `queries` have another shape, or a query is not finite or outside the clip.
        """
        ...


def _cotracker3(**settings: Any) -> PointTracker:
    from extractors.backends.cotracker import CoTracker3

    return CoTracker3(**settings)


def _lucas_kanade(**settings: Any) -> PointTracker:
    from extractors.backends.lucas_kanade import LucasKanade

    return LucasKanade(**settings)


TRACKERS: dict[str, Callable[..., PointTracker]] = {"cotracker3": _cotracker3, "lucas-kanade": _lucas_kanade}
"""Builders by backend name; the keyword arguments are the backend's settings."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackSet:
    """Tracks of one query set, in packet pixels.

    Attributes:
        tracks: positions and queries in packet pixels.
        on_object: (N,) bool, the query was posed on the object.
        report: how many object points are seen, and where too few. JSON types only.
    """

    tracks: Tracks
    on_object: NDArray[np.bool_]
    report: Mapping[str, Any] = field(default_factory=dict)


def extract_tracks(
    pixels: Frames,
    masks: NDArray[np.bool_] | None,
    tracker: PointTracker,
    *,
    size: Size,
    grid_side: int = 20,
    count: int = 400,
    share: float = 0.6,
    seed: int = 0,
    min_object_tracks: int = 47,
    max_rounds: int = 4,
    known_grid: Tracks | None = None,
) -> dict[str, TrackSet]:
    """The track sets of one clip.

    The object guarantee: where fewer than `min_object_tracks` object points are seen in a frame that shows the
    object, more queries are posed there, in place of background ones, and tracked both ways. What remains short is
    listed in the report.

    Args:
        pixels: (T, H, W, 3) uint8 RGB at source size; read once.
        masks: (T, h, w) bool of the object, at any size, or None.
        tracker: the backend.
        size: (height, width) of the packet, in whose pixels the result is given.
        grid_side: the grid has `grid_side` x `grid_side` points on frame 0.
        count: points of the foreground set.
        share: part of them on the object.
        seed: fixes the draw of the foreground set.
        min_object_tracks: K of the guarantee.
        max_rounds: most times that more queries are posed.
        known_grid: the grid's tracks in packet pixels, where they are known from an earlier run with other masks; the
            clip is then read only if there is an object to track.

    Returns:
        `grid`, and `foreground` unless there is no mask or it is empty in every frame.

    Raises:
        ShapeError: shapes that do not fit each other.
    """
    source: Size = (int(pixels.shape[1]), int(pixels.shape[2]))
    if masks is not None and (masks.ndim != 3 or masks.dtype != np.bool_ or len(masks) != len(pixels)):
        raise ShapeError(
            f"masks must be (T, h, w) bool with one mask per frame ({len(pixels)}), got {masks.shape} {masks.dtype}"
        )
    has_object = masks is not None and bool(masks.any())
    clip = tracker.prepare(pixels) if known_grid is None or has_object else None
    grid = known_grid
    if grid is None:
        assert clip is not None
        grid = _in_packet(clip.track(grid_queries(source, side=grid_side)), source, size)
    sets = {"grid": _as_set(grid, _on_mask(grid.queries, masks, size), masks, size, min_object_tracks, [])}
    if has_object:
        assert masks is not None
        assert clip is not None
        queries, on_object = foreground_queries(masks, count=count, share=share, seed=seed)
        mask_size: Size = (masks.shape[1], masks.shape[2])
        tracks = clip.track(rescale_queries(queries, mask_size, source))
        tracks, on_object, posed = _top_up(
            clip, tracks, on_object, masks, source, seed=seed, wanted=min_object_tracks, rounds=max_rounds
        )
        foreground = _in_packet(tracks, source, size)
        sets["foreground"] = _as_set(foreground, on_object, masks, size, min_object_tracks, posed)
    return sets


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


def foreground_queries(
    masks: NDArray[np.bool_],
    *,
    count: int = 400,
    share: float = 0.6,
    seed: int = 0,
    growth: float = 1.5,
    max_later: int = 3,
    later_share: float = 0.25,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Query points of which about `share` lie on the object, object points first.

    The object's points are posed on the first frame that shows it well (at least half of its 90th percentile area),
    and again, in place of background points, on later frames that show `growth` times more of it. They are spread
    over the mask and keep off its border where the object is big enough. Background points lie on frame 0.

    Args:
        masks: (T, h, w) bool, True on the object.
        count: points to return.
        share: part of `count` on the object, in [0, 1].
        seed: fixes the draw; equal arguments give equal points.
        growth: factor in visible area that is worth posing again.
        max_later: most frames on which points are posed again.
        later_share: points posed again on each of them, as a part of those posed first.

    Returns:
        (count, 3) float32 as (frame, x, y) in mask pixels with sub-pixel positions, and (count,) bool, True on the
        object. Every object point lies within a pixel of the mask of its frame.

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
    rng = np.random.default_rng(seed)
    n_object = round(count * share)
    n_background = count - n_object
    first, later = _posing_frames(masks.sum(axis=(1, 2)), growth, max_later)
    parts = [(first, n_object)]
    for frame in later:
        extra = min(round(later_share * n_object), n_background)
        parts.append((frame, extra))
        n_background -= extra
    if masks[0].all():
        parts[0] = (first, n_object + n_background)
        n_background = 0
    drawn = [_posed(frame, _spread(_interior(masks[frame]), n, rng)) for frame, n in parts]
    drawn.append(_posed(0, _spread(_away(masks[0]), n_background, rng)))
    return np.concatenate(drawn), np.arange(count) < count - n_background


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
            f"queries must lie in frames 0..{n_frames - 1} of {width}x{height} pixels, but {len(bad)} do not "
            f"(first: number {bad[0]}, {queries[bad[0]].tolist()}); check their frame size"
        )


def check_pixels(pixels: Frames) -> None:
    """Raises ShapeError unless `pixels` is (T, H, W, 3) with T, H and W at least 1."""
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or len(pixels) != shape[0]:
        raise ShapeError(f"pixels must be (T, H, W, 3) RGB with T, H, W >= 1, got {shape}")


def _posing_frames(area: NDArray[np.integer], growth: float, max_later: int) -> tuple[int, list[int]]:
    """The frame to pose the object's queries on first, and later ones that show much more of it."""
    shown = area[area > 0]
    first = int(np.argmax(area >= max(0.5 * float(np.quantile(shown, 0.9)), 1.0)))
    gain = float(area[first:].max() / area[first])
    steps = min(int(np.log(gain) / np.log(growth)), max_later) if gain > 1.0 else 0
    later: list[int] = []
    for step in range(1, steps + 1):
        wanted = area[first] * gain ** (step / steps) * (1.0 - 1e-9)
        later.append(first + int(np.argmax(area[first:] >= wanted)))
    return first, sorted(set(later) - {first})


def _interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Border points see more background than object; 2 px keeps a tracker's inner window clear of it.
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inner = np.asarray(depth >= 2.0, dtype=np.bool_)
    return inner if inner.sum() >= 0.4 * mask.sum() else mask


def _away(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # A mask is rarely right to the pixel: background points keep 3 px off, unless nothing is left then.
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return ~mask if grown.all() else np.asarray(~grown, dtype=np.bool_)


def _spread(where: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(count, 2) points (x, y) inside the True pixels of `where`, each far from those drawn before it."""
    if count == 0:
        return np.empty((0, 2), np.float32)
    y, x = np.nonzero(where)
    # Eight candidates a point are spread nearly as well as all pixels are, and bound the work.
    n_candidates = max(8 * count, 64)
    picked = rng.permutation(len(x))[:n_candidates]
    picked = np.resize(picked, n_candidates)
    jitter = rng.uniform(-0.49, 0.49, size=(n_candidates, 2))
    candidates = np.stack([x[picked], y[picked]], axis=1) + jitter
    chosen = np.zeros(count, dtype=int)
    nearest = np.linalg.norm(candidates - candidates[0], axis=1)
    for number in range(1, count):
        chosen[number] = int(np.argmax(nearest))
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[number]], axis=1))
    return candidates[chosen].astype(np.float32)


def _posed(frame: int, xy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.full((len(xy), 1), frame, np.float32), xy], axis=1)


def _on_mask(queries: NDArray[np.float32], masks: NDArray[np.bool_] | None, size: Size) -> NDArray[np.bool_]:
    if masks is None:
        return np.zeros(len(queries), dtype=np.bool_)
    xy = rescale_points(queries[:, 1:], size, (masks.shape[1], masks.shape[2]))
    return _looked_up(masks, queries[:, 0].astype(int), xy)


def _looked_up(masks: NDArray[np.bool_], frames: NDArray[np.integer], xy: NDArray[np.float32]) -> NDArray[np.bool_]:
    x = np.clip(np.rint(xy[:, 0]).astype(int), 0, masks.shape[2] - 1)
    y = np.clip(np.rint(xy[:, 1]).astype(int), 0, masks.shape[1] - 1)
    return np.asarray(masks[frames, y, x], dtype=np.bool_)


def seen_on_object(
    tracks: Tracks, on_object: NDArray[np.bool_], masks: NDArray[np.bool_], size: Size, *, slack: float = 0.015
) -> NDArray[np.int64]:
    """(T,) how many object points are claimed visible and lie on the mask, or within `slack` of its width from it.

    `tracks` are in pixels of `size`; `masks` (T, h, w) may have another size.
    """
    n_frames, height, width = masks.shape
    radius = max(round(slack * max(height, width)), 1)
    kernel = np.ones((2 * radius + 1,) * 2, np.uint8)
    xy = rescale_points(tracks.xy, size, (height, width))
    seen = np.zeros(n_frames, dtype=np.int64)
    for t in range(n_frames):
        grown = cv2.dilate(masks[t].astype(np.uint8), kernel)[None] > 0
        visible = tracks.visibility[t] & on_object
        seen[t] = int(_looked_up(grown, np.zeros(int(visible.sum()), dtype=int), xy[t, visible]).sum())
    return seen


def _top_up(
    clip: PreparedClip,
    tracks: Tracks,
    on_object: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    source: Size,
    *,
    seed: int,
    wanted: int,
    rounds: int,
    headroom: float = 1.5,
) -> tuple[Tracks, NDArray[np.bool_], list[dict[str, int]]]:
    """Poses more object queries where too few are seen, in place of background points.

    `headroom`: aims at so many times `wanted`, as some of the points claimed visible are wrong (on simulated
    episodes three of ten in the worst frames).
    """
    area = masks.sum(axis=(1, 2))
    mask_size: Size = (masks.shape[1], masks.shape[2])
    posed: list[dict[str, int]] = []
    for number in range(rounds):
        seen = seen_on_object(tracks, on_object, masks, source)
        short = np.flatnonzero((seen < headroom * wanted) & (area > 0))
        spare = np.flatnonzero(~on_object)
        if not len(short) or not len(spare):
            break
        # The short frame that shows most of the object serves its neighbours best.
        frame = int(short[np.argmax(area[short])])
        extra = min(int(np.ceil(headroom * wanted - seen[frame])), len(spare))
        rng = np.random.default_rng([seed, number + 1])
        queries = _posed(frame, _spread(_interior(masks[frame]), extra, rng))
        places = spare[-extra:]
        tracks = _replaced(tracks, places, clip.track(rescale_queries(queries, mask_size, source)))
        on_object = on_object.copy()
        on_object[places] = True
        posed.append({"frame": frame, "count": extra})
    return tracks, on_object, posed


def _replaced(tracks: Tracks, places: NDArray[np.intp], new: Tracks) -> Tracks:
    def put(old: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
        merged = old.copy()
        merged[:, places] = fresh
        return merged

    queries = tracks.queries.copy()
    queries[places] = new.queries
    return Tracks(
        xy=put(tracks.xy, new.xy),
        visibility=put(tracks.visibility, new.visibility),
        confidence=put(tracks.confidence, new.confidence),
        visibility_score=put(tracks.visibility_score, new.visibility_score),
        queries=queries,
    )


def _as_set(
    tracks: Tracks,
    on_object: NDArray[np.bool_],
    masks: NDArray[np.bool_] | None,
    size: Size,
    wanted: int,
    posed: list[dict[str, int]],
) -> TrackSet:
    """`tracks` in packet pixels, with what can be said about them."""
    report: dict[str, Any] = {
        "points": len(tracks.queries),
        "object_points": int(on_object.sum()),
        "visible_share": float(tracks.visibility.mean()),
    }
    if masks is not None and masks.any():
        present = masks.any(axis=(1, 2))
        seen = seen_on_object(tracks, on_object, masks, size)[present]
        report["visible_object_tracks"] = {"min": int(seen.min()), "mean": float(seen.mean())}
        report["min_object_tracks"] = wanted
        report["short_frames"] = np.flatnonzero(present)[seen < wanted].tolist()
        report["posed_again"] = posed
    return TrackSet(tracks=tracks, on_object=on_object, report=report)


def _in_packet(tracks: Tracks, source: Size, size: Size) -> Tracks:
    return Tracks(
        xy=rescale_points(tracks.xy, source, size),
        visibility=tracks.visibility,
        confidence=tracks.confidence,
        visibility_score=tracks.visibility_score,
        queries=rescale_queries(tracks.queries, source, size),
    )
