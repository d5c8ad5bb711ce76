"""Depth maps: flat, frozen, full of holes, drifting or jumping against the still background."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.timing import frames_in
from scoring.card import Card, Severity, frames_text
from scoring.frames import Motion
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals

_LEAST_BACKGROUND = 0.05
"""Least still share of the picture on which drift is measured."""

_SMOOTH_S = 0.4
"""Half of the time over which slow drift is separated from leaps, seconds."""


def depth_ranges(depth: NDArray[np.floating], kind: Literal["relative", "metric"]) -> NDArray[np.float64]:
    """(T,) dynamic range of each map (T, h, w), NaN where a map has no reading.

    Relative: maximum minus minimum on the model's own scale, on which Video-Depth-Anything's inverse depth of a table
    top spans several units; a map that spans under 2.0 has collapsed towards a plane (the study's threshold). Metric:
    p95 / p5, since extremes of a depth camera are outliers: 2.0 is a background twice as far as the foreground.
    """
    ranges = np.full(len(depth), np.nan)
    for t, frame in enumerate(depth):
        values = frame[np.isfinite(frame) & (frame > 0)] if kind == "metric" else frame[np.isfinite(frame)]
        if not len(values):
            continue
        if kind == "metric":
            low, high = np.percentile(values, [5, 95])
            ranges[t] = high / low
        else:
            ranges[t] = float(values.max()) - float(values.min())
    return ranges


def dynamic_range(depth: NDArray[np.floating], kind: Literal["relative", "metric"]) -> float | None:
    """Median of `depth_ranges` over frames, None where no frame has a reading."""
    ranges = depth_ranges(depth, kind)
    return float(np.nanmedian(ranges)) if np.isfinite(ranges).any() else None


def judge_depth(signals: ClipSignals, motion: Motion, settings: ScoringSettings) -> Card:
    """The card of the depth maps."""
    assert signals.depth is not None
    assert signals.depth_kind is not None
    card = Card()
    depth, kind = signals.depth, signals.depth_kind
    valid = np.isfinite(depth) & (depth > 0) if kind == "metric" else np.isfinite(depth)
    holes = 1 - valid.mean(axis=(1, 2))
    ranges = depth_ranges(depth, kind)
    card.numbers |= {
        "kind": kind,
        "dynamic_range": float(np.nanmedian(ranges)) if np.isfinite(ranges).any() else None,
        "holes_median": float(np.median(holes)),
    }
    empty = holes > settings.holes_share
    if empty.any():
        severity: Severity = "fail" if empty.mean() > 0.2 else "warn"
        card.add("depth-holes", severity, f"most of the map has no reading in {frames_text(np.flatnonzero(empty))}")
    limit = settings.flat_metric if kind == "metric" else settings.flat_relative
    flat = np.nan_to_num(ranges, nan=np.inf) < limit
    if flat.any():
        where = frames_text(np.flatnonzero(flat))
        card.add("flat-depth", "fail" if flat.mean() > 0.1 else "warn", f"depth is flat in {where}")
    _judge_frozen(card, depth, motion, settings)
    if not (empty | flat).all() and not signals.camera_moves:
        steady = signals.depth_stabilized if signals.depth_stabilized is not None else depth
        _judge_background(card, np.where(valid, steady, np.nan), empty | flat, motion, settings)
    return card


def _judge_frozen(card: Card, depth: NDArray[np.floating], motion: Motion, settings: ScoringSettings) -> None:
    same = np.array([np.array_equal(a, b, equal_nan=True) for a, b in pairwise(depth)], bool)
    frozen = same & (motion.step1 > motion.step_level(settings.motion_level))
    card.numbers["frozen_pairs"] = int(frozen.sum())
    if frozen.sum() >= max(frames_in(settings.frozen_s, motion.fps), 0.1 * len(same)):
        card.add("frozen-depth", "fail", f"depth stays the same after {frames_text(np.flatnonzero(frozen))}")


def _judge_background(
    card: Card, depth: NDArray[np.floating], bad: NDArray[np.bool_], motion: Motion, settings: ScoringSettings
) -> None:
    """How the still background's depth wanders (slowly: drift; from frame to frame: jumps), over its own spread.

    Told on the nearest, the middle and the farthest third of the background by their medians, so that neither an arm
    of the background's colour nor a drawer that opens is taken for drift.
    """
    still = motion.static_pixels()
    card.numbers["background_share"] = float(still.mean())
    if still.mean() < _LEAST_BACKGROUND or len(depth) < 3:
        return
    side = motion.grey.shape[1:]
    maps = np.stack([cv2.resize(frame, side[::-1], interpolation=cv2.INTER_NEAREST) for frame in depth])[:, still]
    good = ~bad & (np.isfinite(maps).mean(axis=1) > 0.2)
    if good.sum() < 3:
        return
    maps = maps[:, np.isfinite(maps[good]).all(axis=0)]
    if maps.shape[1] < _LEAST_BACKGROUND * still.size:
        return
    centre = np.median(maps[good], axis=0)
    low, high = np.percentile(centre, [10, 90])
    spread = max(float(high - low), 1e-6 + 0.02 * abs(float(np.median(centre))))
    thirds = np.array_split(np.argsort(centre), 3)
    offsets = np.stack([np.median((maps - centre)[:, third], axis=1) for third in thirds]) / spread
    wander = np.take_along_axis(offsets, np.abs(offsets).argmax(axis=0)[None], axis=0)[0]
    wander[~good] = np.interp(np.flatnonzero(~good), np.flatnonzero(good), wander[good])
    smooth = _median_filter(wander, 2 * frames_in(_SMOOTH_S, motion.fps) + 1)
    jumps = np.flatnonzero(np.abs(wander - smooth) > settings.depth_jump_share)
    drift = float(np.ptp(smooth))
    card.numbers |= {"background_drift": drift, "background_jump_max": float(np.abs(wander - smooth).max())}
    if len(jumps):
        card.add("depth-jump", "fail", f"depth of the still background leaps at {frames_text(jumps)}")
    if drift > settings.drift_share:
        card.add("depth-drift", "warn", f"depth of the still background wanders by {drift:.0%} of its spread")


def _median_filter(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(T,) running median over the odd number `width` of values."""
    padded = np.pad(values, width // 2, mode="reflect" if len(values) > width // 2 else "edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1))
