"""TAP-Vid's numbers about point tracks against the truth: delta_avg, occlusion accuracy, average Jaccard.

Definitions: Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video", 2022, section 4 and appendix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.types import Size

THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Distances in pixels of a 256 x 256 frame (TAP-Vid, section 4)."""

TAPVID_SIDE = 256
"""Tracks are compared after each axis was scaled to this many pixels."""

STRIDE = 5
"""Frames between strided queries (TAP-Vid, section 4)."""

QueryMode = Literal["first", "strided"]


@dataclass(frozen=True, slots=True)
class TapVidScores:
    """TAP-Vid metrics of one set of tracks, each in [0, 1]; NaN where nothing was there to judge.

    Attributes:
        delta_avg: mean over the thresholds of the share of truly visible points placed within them.
        occlusion_accuracy: OA, share of points whose claimed visibility is the true one.
        average_jaccard: AJ, mean over the thresholds of TP / (visible in truth + false positives).
        within: the share placed within each of `THRESHOLDS_PX`, among truly visible points.
        n_points: tracks judged.
        n_visible: pairs of point and frame that are visible in truth and judged.
    """

    delta_avg: float
    occlusion_accuracy: float
    average_jaccard: float
    within: tuple[float, ...]
    n_points: int
    n_visible: int


def tapvid_scores(
    xy: NDArray[np.floating],
    visibility: NDArray[np.bool_],
    true_xy: NDArray[np.floating],
    true_visibility: NDArray[np.bool_],
    query_frames: NDArray[np.integer] | NDArray[np.floating],
    *,
    size: Size,
    mode: QueryMode = "first",
    points: NDArray[np.bool_] | None = None,
) -> TapVidScores:
    """TAP-Vid metrics of tracks against the truth.

    A position that is not finite counts as farther than every threshold.

    Args:
        xy: (T, N, 2) tracked positions (x, y) in pixels of a frame of `size`.
        visibility: (T, N) bool, claimed visible.
        true_xy: (T, N, 2) true positions in the same pixels.
        true_visibility: (T, N) bool, truly visible.
        query_frames: (N,) frame in which each point was posed; never judged.
        size: (height, width) of the frames, for the scaling to 256 x 256.
        mode: `first` judges the frames after the query, `strided` those before it as well.
        points: (N,) bool, the points to judge (all where None); see `split_by_motion`.

    Raises:
        ShapeError: the arrays disagree about T or N.
    """
    _check_shapes(xy, visibility, true_xy, true_visibility, query_frames)
    n_frames, n_points = visibility.shape
    frames = np.arange(n_frames)[:, None]
    posed = np.asarray(query_frames)[None, :]
    judged = frames > posed if mode == "first" else frames != posed
    if points is not None:
        if points.shape != (n_points,) or points.dtype != np.bool_:
            raise ShapeError(f"points must be ({n_points},) bool, got {points.shape} {points.dtype}")
        judged = judged & points[None, :]
    distance = distances_256(xy, true_xy, size=size)
    seen = true_visibility & judged
    claimed = visibility & judged
    within, jaccard = [], []
    for threshold in THRESHOLDS_PX:
        near = distance < threshold
        within.append(_share(near & seen, seen))
        false_positives = claimed & ~(near & true_visibility)
        jaccard.append(_ratio(np.sum(near & seen & claimed), np.sum(seen) + np.sum(false_positives)))
    return TapVidScores(
        delta_avg=float(np.mean(within)),
        occlusion_accuracy=_share((visibility == true_visibility) & judged, judged),
        average_jaccard=float(np.mean(jaccard)),
        within=tuple(within),
        n_points=n_points if points is None else int(points.sum()),
        n_visible=int(seen.sum()),
    )


def tapvid_queries(
    visible: NDArray[np.bool_], mode: QueryMode, *, stride: int = STRIDE
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When and by which point a video is queried (TAP-Vid, section 4).

    Args:
        visible: (T, N) bool.
        mode: `first` asks for each point once, where it is visible first; `strided` in every `stride`-th frame for
            every point that is visible in it.
        stride: in frames, as TAP-Vid defines it.

    Returns:
        (Q,) frames and (Q,) numbers of points.
    """
    if mode == "first":
        points = np.flatnonzero(visible.any(axis=0))
        return visible.argmax(axis=0)[points], points
    asked = np.zeros(len(visible), np.bool_)
    asked[::stride] = True
    frames, points = np.nonzero(visible & asked[:, None])
    return frames, points


def distances_256(xy: NDArray[np.floating], true_xy: NDArray[np.floating], *, size: Size) -> NDArray[np.float64]:
    """(T, N) distance between positions (T, N, 2) of frames of `size`, each axis scaled to 256 pixels.

    Infinite where a position is not finite.
    """
    height, width = size
    scale = np.array([TAPVID_SIDE / width, TAPVID_SIDE / height])
    difference = (np.asarray(xy, np.float64) - np.asarray(true_xy, np.float64)) * scale
    distance: NDArray[np.float64] = np.linalg.norm(difference, axis=-1)
    return np.where(np.isfinite(distance), distance, np.inf)


def split_by_motion(
    true_xy: NDArray[np.floating], true_visibility: NDArray[np.bool_], *, size: Size, min_travel_px: float = 1.0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points move and which stay, (N,) bool each; points that are never visible are in neither.

    A point moves when, over the frames in which it is truly visible, the diagonal of the box around its true
    positions exceeds `min_travel_px` pixels at 256 x 256 (TAP-Vid's finest threshold: a tracker that stays put is
    right about everything below).
    """
    height, width = size
    scaled = np.asarray(true_xy, np.float64) * np.array([TAPVID_SIDE / width, TAPVID_SIDE / height])
    seen = true_visibility[..., None] & np.isfinite(scaled)
    low = np.where(seen, scaled, np.inf).min(axis=0)
    high = np.where(seen, scaled, -np.inf).max(axis=0)
    ever = seen.any(axis=(0, 2))
    travel = np.linalg.norm(np.where(ever[:, None], high - low, 0.0), axis=-1)
    moving = ever & (travel > min_travel_px)
    return moving, ever & ~moving


def mean_scores(scores: list[TapVidScores]) -> TapVidScores:
    """Mean over episodes, as TAP-Vid averages over videos; episodes with nothing to judge (NaN) are left out."""

    def mean(values: list[float]) -> float:
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else math.nan

    return TapVidScores(
        delta_avg=mean([score.delta_avg for score in scores]),
        occlusion_accuracy=mean([score.occlusion_accuracy for score in scores]),
        average_jaccard=mean([score.average_jaccard for score in scores]),
        within=tuple(mean([score.within[k] for score in scores]) for k in range(len(THRESHOLDS_PX))),
        n_points=sum(score.n_points for score in scores),
        n_visible=sum(score.n_visible for score in scores),
    )


def _check_shapes(
    xy: NDArray[np.floating],
    visibility: NDArray[np.bool_],
    true_xy: NDArray[np.floating],
    true_visibility: NDArray[np.bool_],
    query_frames: NDArray[np.integer] | NDArray[np.floating],
) -> None:
    if visibility.ndim != 2 or visibility.dtype != np.bool_ or true_visibility.dtype != np.bool_:
        raise ShapeError(
            f"visibility must be (T, N) bool, got {visibility.shape} {visibility.dtype} "
            f"against a truth of {true_visibility.dtype}; threshold scores first"
        )
    n_frames, n_points = visibility.shape
    shapes = {
        "xy": (xy.shape, (n_frames, n_points, 2)),
        "true_xy": (true_xy.shape, (n_frames, n_points, 2)),
        "true_visibility": (true_visibility.shape, (n_frames, n_points)),
        "query_frames": (np.shape(query_frames), (n_points,)),
    }
    for name, (came, expected) in shapes.items():
        if came != expected:
            raise ShapeError(f"{name} must be {expected} to match visibility {visibility.shape}, got {came}")


def _share(hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return _ratio(np.sum(hits), np.sum(among))


def _ratio(numerator: np.integer, denominator: np.integer) -> float:
    return float(numerator / denominator) if denominator else math.nan
