"""The backends of each signal by name: the only file that knows both a signal's Protocol and what fulfils it.

A builder imports its backend when it is called, so that listing the choices loads no network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from extractors.depth import DepthEstimator
from extractors.masks import RecordedSegmenter, Segmenter
from extractors.tracks import PointTracker


def _nano_masks(**settings: Any) -> Segmenter:
    from extractors.backends.nano.segmenter import NanoSegmenter

    return NanoSegmenter(**settings)


def _nano_depth(**settings: Any) -> DepthEstimator:
    from extractors.backends.nano.depth import NanoDepth

    return NanoDepth(**settings)


def _sam3(**settings: Any) -> Segmenter:
    from extractors.backends.sam3 import Sam3

    return Sam3(**settings)


def _grounded_sam(**settings: Any) -> Segmenter:
    from extractors.backends.grounded_sam import GroundedSam

    return GroundedSam(**settings)


def _video_depth_anything(**settings: Any) -> DepthEstimator:
    from extractors.backends.video_depth_anything import VideoDepthAnything

    return VideoDepthAnything(**settings)


def _cotracker3(*, weights: Path, **settings: Any) -> PointTracker:
    from extractors.backends.cotracker import CoTracker3, CoTrackerSettings

    return CoTracker3(weights, CoTrackerSettings(**settings))


def _tapir(*, weights: Path, **settings: Any) -> PointTracker:
    from extractors.backends.tapir import Tapir, TapirSettings

    return Tapir(weights, TapirSettings(**settings))


def _lucas_kanade(**settings: Any) -> PointTracker:
    from extractors.backends.lucas_kanade import LucasKanade

    return LucasKanade(**settings)


SEGMENTERS: dict[str, Callable[..., Segmenter]] = {
    "nano": _nano_masks,
    "recorded": RecordedSegmenter,
    "sam3": _sam3,
    "grounded-sam": _grounded_sam,
}
"""Name -> builder; the builder's keyword arguments are the backend's settings."""

DEPTH_ESTIMATORS: dict[str, Callable[..., DepthEstimator]] = {
    "nano": _nano_depth,
    "video-depth-anything": _video_depth_anything,
}
"""Name -> builder; the builder's keyword arguments are the backend's settings."""

TRACKERS: dict[str, Callable[..., PointTracker]] = {
    "cotracker3": _cotracker3,
    "tapir": _tapir,
    "lucas-kanade": _lucas_kanade,
}
"""Builders by backend name; the keyword arguments are the backend's settings."""
