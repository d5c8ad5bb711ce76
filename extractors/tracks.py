"""Point tracks: a uniform grid, and a set that favours the object, from any tracker backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.side_by_side import side_by_side
from extractors.track_queries import (
    Posed,
    background_points,
    grid_queries,
    interior,
    object_queries,
    rescale_points,
    rescale_queries,
    spread_queries,
)
from extractors.types import Backend, Frames, Size, Tracks

Background = Literal["grid", "own"]


class PreparedClip(Protocol):
    """A clip that a tracker has read once; several query sets share that work."""

    @property
    def at_once(self) -> int:
        """Query sets that may be followed at the same time, by threads: 1 where one set keeps all cores busy."""
        ...

    def track(self, queries: NDArray[np.float32], *, posed: Posed = "anywhere") -> Tracks:
        """As `PointTracker.track`, on the clip that was prepared, with what is known of where they are `posed`."""
        ...


class PointTracker(Backend, Protocol):
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


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """Which points are tracked.

    Attributes:
        grid_side: the grid has `grid_side` x `grid_side` points on frame 0.
        count: points of the foreground set.
        share: part of them on the object.
        background: where those off it come from: "grid" takes the grid's tracks as far as it has them; "own" poses
            them all and tracks them together with the object's, so that a tracker whose points help each other sees
            the set as published.
        seed: fixes the draw of the foreground set.
        min_object_tracks: object points that should be seen in every frame that shows the object.
        max_rounds: most times that more queries are posed where fewer are.
    """

    grid_side: int = 20
    count: int = 400
    share: float = 0.6
    background: Background = "grid"
    seed: int = 0
    min_object_tracks: int = 47
    max_rounds: int = 4


def extract_tracks(
    pixels: Frames,
    masks: NDArray[np.bool_] | None,
    tracker: PointTracker,
    *,
    size: Size,
    plan: TrackPlan | None = None,
    known_grid: Tracks | None = None,
) -> dict[str, TrackSet]:
    """The track sets of one clip.

    The object guarantee: where fewer than `plan.min_object_tracks` object points are seen in a frame that shows the
    object, more queries are posed there, in place of background ones, and tracked both ways. What remains short is
    listed in the report.

    Args:
        pixels: (T, H, W, 3) uint8 RGB at source size; read once.
        masks: (T, h, w) bool of the object, at any size, or None.
        tracker: the backend.
        size: (height, width) of the packet, in whose pixels the result is given.
        plan: which points; None: `TrackPlan()`.
        known_grid: the grid's tracks in packet pixels, where they are known from an earlier run with other masks; the
            clip is then read only if there is an object to track.

    Returns:
        `grid`, and `foreground` unless there is no mask or it is empty in every frame.

    Raises:
        ShapeError: shapes that do not fit each other.
    """
    plan = plan or TrackPlan()
    source: Size = (int(pixels.shape[1]), int(pixels.shape[2]))
    if masks is not None and (masks.ndim != 3 or masks.dtype != np.bool_ or len(masks) != len(pixels)):
        raise ShapeError(
            f"masks must be (T, h, w) bool with one mask per frame ({len(pixels)}), got {masks.shape} {masks.dtype}"
        )
    shown = masks if masks is not None and masks.any() else None
    clip = tracker.prepare(pixels) if known_grid is None or shown is not None else None
    in_grid = grid_queries(source, side=plan.grid_side)

    def follow_grid() -> Tracks:
        if known_grid is not None:
            return known_grid
        assert clip is not None
        return _in_packet(clip.track(in_grid, posed="grid"), source, size)

    def follow_foreground() -> _Foreground | None:
        if shown is None:
            return None
        assert clip is not None
        return _follow_foreground(clip, shown, in_grid, source, plan)

    at_once = 1 if clip is None else clip.at_once
    grid, foreground = side_by_side(follow_grid, follow_foreground, at_once=at_once)
    sets = {"grid": _as_set(grid, _on_mask(grid.queries, shown, size), shown, size, plan.min_object_tracks, [])}
    if foreground is not None and shown is not None:
        sets["foreground"] = _foreground_set(foreground, grid, shown, source, size, plan)
    return sets


class _Foreground(NamedTuple):
    """What was tracked for the set that favours the object, in source pixels.

    Attributes:
        of_object: on the object, `posed_again` in those frames.
        reused: numbers of the grid's points that serve as background.
        background: further such points.
    """

    of_object: Tracks
    posed_again: list[dict[str, int]]
    reused: NDArray[np.intp]
    background: Tracks


def _follow_foreground(
    clip: PreparedClip, masks: NDArray[np.bool_], grid: NDArray[np.float32], source: Size, plan: TrackPlan
) -> _Foreground:
    """`grid` are the grid's queries (N, 3) in source pixels."""
    mask_size: Size = (masks.shape[1], masks.shape[2])
    queries = object_queries(masks, count=plan.count, share=plan.share, seed=plan.seed)
    tracked = rescale_points(grid[:, 1:], source, mask_size)[: None if plan.background == "grid" else 0]
    reused, more = background_points(masks[0], tracked, plan.count - len(queries), seed=plan.seed)
    tracks = clip.track(rescale_queries(np.concatenate([queries, more]), mask_size, source), posed="object")
    posed_first, background = _some(tracks, slice(len(queries))), _some(tracks, slice(len(queries), None))
    return _Foreground(*_top_up(clip, posed_first, masks, source, plan), reused, background)


def _foreground_set(
    found: _Foreground, grid: Tracks, masks: NDArray[np.bool_], source: Size, size: Size, plan: TrackPlan
) -> TrackSet:
    """The object's points come first; `grid` and the result are in packet pixels."""
    of_object, background = (_in_packet(each, source, size) for each in (found.of_object, found.background))
    everything = _joined(of_object, _some(grid, found.reused), background)
    # What was posed again takes the place of background points.
    on_object = np.arange(plan.count) < len(of_object.queries)
    chosen = _some(everything, slice(plan.count))
    return _as_set(chosen, on_object, masks, size, plan.min_object_tracks, found.posed_again)


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


_HEADROOM = 1.5
"""Object points aimed at, in multiples of those wanted, as some of the points claimed visible are wrong: on simulated
episodes three of ten in the worst frames."""


def _top_up(
    clip: PreparedClip, tracks: Tracks, masks: NDArray[np.bool_], source: Size, plan: TrackPlan
) -> tuple[Tracks, list[dict[str, int]]]:
    """Adds object queries where too few of the object's `tracks` are seen, up to `plan.count` in all."""
    aim = _HEADROOM * plan.min_object_tracks
    area = masks.sum(axis=(1, 2))
    mask_size: Size = (masks.shape[1], masks.shape[2])
    posed: list[dict[str, int]] = []
    for number in range(plan.max_rounds):
        seen = seen_on_object(tracks, np.ones(len(tracks.queries), np.bool_), masks, source)
        short = np.flatnonzero((seen < aim) & (area > 0))
        spare = plan.count - len(tracks.queries)
        if not len(short) or not spare:
            break
        # The short frame that shows most of the object serves its neighbours best.
        frame = int(short[np.argmax(area[short])])
        extra = min(int(np.ceil(aim - seen[frame])), spare)
        queries = spread_queries(frame, interior(masks[frame]), extra, np.random.default_rng([plan.seed, number + 1]))
        tracks = _joined(tracks, clip.track(rescale_queries(queries, mask_size, source), posed="object"))
        posed.append({"frame": frame, "count": extra})
    return tracks, posed


def _some(tracks: Tracks, points: slice | NDArray[np.intp]) -> Tracks:
    return Tracks(
        xy=tracks.xy[:, points],
        visibility=tracks.visibility[:, points],
        confidence=tracks.confidence[:, points],
        visibility_score=tracks.visibility_score[:, points],
        queries=tracks.queries[points],
    )


def _joined(*parts: Tracks) -> Tracks:
    return Tracks(
        xy=np.concatenate([part.xy for part in parts], axis=1),
        visibility=np.concatenate([part.visibility for part in parts], axis=1),
        confidence=np.concatenate([part.confidence for part in parts], axis=1),
        visibility_score=np.concatenate([part.visibility_score for part in parts], axis=1),
        queries=np.concatenate([part.queries for part in parts]),
    )


def _as_set(
    tracks: Tracks,
    on_object: NDArray[np.bool_],
    masks: NDArray[np.bool_] | None,
    size: Size,
    min_object_tracks: int,
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
        report["min_object_tracks"] = min_object_tracks
        report["short_frames"] = np.flatnonzero(present)[seen < min_object_tracks].tolist()
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
