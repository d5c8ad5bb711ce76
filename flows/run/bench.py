"""A tracker backend judged on TAP-Vid's files: scores per video, their means, and what two conventions change.

Rules, all of Doersch et al., "TAP-Vid", 2022: frames are resized to 256 x 256 unless asked otherwise, distances are in
pixels of that size, `first` judges the frames after each query, `strided` all others, means are over videos.

Two conventions move the numbers and are swept. Where pixel centres are: TAP-Vid's points are shares of the picture from
edge to edge ("edges"); "centres" takes 0 for the centre of the first pixel, which is half a pixel off and what a
tracker of another convention would be given unknowingly. What score makes a point visible: thresholds on the backend's
score (visibility x confidence, or as `tracks.visible_by` says) beside the backend's own choice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, EpisodeError, UnsafePickleError
from extractors.geometry import resize_frames
from extractors.tracks import PointTracker
from extractors.types import Size, Tracks
from flows.models.device_slot import device_slot
from flows.run.tapvid import MarkedVideo, read_tapvid
from scoring.truth.tapvid import TAPVID_SIDE, QueryMode, TapVidScores, mean_scores, tapvid_queries, tapvid_scores

Centres = Literal["edges", "centres"]

MODES: tuple[QueryMode, ...] = ("first", "strided")

OWN = "own"
"""The threshold that the backend itself applied."""

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Key = tuple[QueryMode, Centres, str]
"""Query mode, convention of pixel centres, threshold."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published average Jaccard, percent."""

    tracker: str
    data: str
    mode: QueryMode
    average_jaccard: float
    source: str


_TAPNET = "README of google-deepmind/tapnet, checkpoints, 256 x 256"
_COTRACKER3 = "arXiv 2410.11831"

PUBLISHED = (
    Published("BootsTAPIR", "RoboTAP", "first", 69.2, _TAPNET),
    Published("BootsTAPIR", "DAVIS", "first", 62.4, _TAPNET),
    Published("BootsTAPIR", "DAVIS", "strided", 67.4, _TAPNET),
    Published("online BootsTAPIR", "RoboTAP", "first", 69.1, _TAPNET),
    Published("online BootsTAPIR", "DAVIS", "first", 59.7, _TAPNET),
    Published("online BootsTAPIR", "DAVIS", "strided", 61.2, _TAPNET),
    Published("TAPIR", "RoboTAP", "first", 59.6, _TAPNET),
    Published("TAPIR", "DAVIS", "first", 58.5, _TAPNET),
    Published("TAPIR", "DAVIS", "strided", 63.3, _TAPNET),
    Published("CoTracker3 online", "RoboTAP", "first", 66.4, _COTRACKER3),
)


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How videos are judged.

    Attributes:
        size: what frames are resized to, (height, width); none: as they are.
        visible_by: the score that thresholds are put on: "both" is visibility x confidence.
        sweep_centres: track each video under both conventions of pixel centres, at twice the time.
    """

    size: Size | None = (TAPVID_SIDE, TAPVID_SIDE)
    visible_by: str = "both"
    sweep_centres: bool = False

    @property
    def centres(self) -> Sequence[Centres]:
        """The conventions that are tried; the right one first."""
        return get_args(Centres) if self.sweep_centres else ("edges",)


@dataclass(frozen=True, slots=True)
class VideoResult:
    """One video's scores by mode, convention and threshold; or why it has none."""

    name: str
    error: str | None = None
    n_frames: int = 0
    seconds: float = 0.0
    scores: dict[Key, TapVidScores] = field(default_factory=dict)


def bench_files(files: Sequence[Path], tracker: PointTracker, settings: BenchSettings) -> Iterator[VideoResult]:
    """Judges `tracker` on every video of `files`; one that cannot be read or does not fit is a result with a reason."""
    for file in files:
        try:
            for name, video in read_tapvid(file):
                yield (
                    VideoResult(name, str(video))
                    if isinstance(video, CorruptDataError)
                    else _judge(video, tracker, settings)
                )
        except (CorruptDataError, UnsafePickleError) as error:
            yield VideoResult(file.name, str(error))


def _judge(video: MarkedVideo, tracker: PointTracker, settings: BenchSettings) -> VideoResult:
    started = time.perf_counter()
    scores: dict[Key, TapVidScores] = {}
    try:
        pixels = video.pixels if settings.size is None else resize_frames(video.pixels, settings.size)
        size: Size = (int(pixels.shape[1]), int(pixels.shape[2]))
        with device_slot(tracker):
            # Frames are prepared once for both query modes and all thresholds: networks encode the whole clip there.
            clip = tracker.prepare(pixels)
            for mode in MODES:
                frames, points = tapvid_queries(video.visible, mode)
                for centres in settings.centres:
                    true_xy = in_pixels(video.places[:, points], size, centres)
                    posed = true_xy[frames, np.arange(len(points))]
                    # A point on the very edge may be a rounding beyond it.
                    posed = np.clip(posed, -0.5, np.array([size[1] - 0.5, size[0] - 0.5], np.float32))
                    tracks = clip.track(np.column_stack([frames, posed]).astype(np.float32))
                    # Thresholds only read scores again, so all of them cost one run of the tracker.
                    for name, claimed in _claims(tracks, settings.visible_by):
                        scores[mode, centres, name] = tapvid_scores(
                            tracks.xy, claimed, true_xy, video.visible[:, points], frames, size=size, mode=mode
                        )
    except EpisodeError as error:
        return VideoResult(video.name, str(error), len(video.pixels))
    return VideoResult(video.name, None, len(video.pixels), time.perf_counter() - started, scores)


def in_pixels(places: NDArray[np.float32], size: Size, centres: Centres) -> NDArray[np.float32]:
    """Shares of the picture in pixels, the first one's centre at 0, under one convention of what 0 and 1 are."""
    height, width = size
    half = np.float32(0.5 if centres == "edges" else 0.0)
    return np.asarray(places * np.array([width, height], np.float32) - half, np.float32)


def _claims(tracks: Tracks, visible_by: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Which points are claimed visible, by the backend's own rule and by each threshold on its score."""
    yield OWN, tracks.visibility
    score = tracks.visibility_score * (tracks.confidence if visible_by == "both" else 1.0)
    for threshold in THRESHOLDS:
        yield f"{threshold:.1f}", score > threshold


def mean_results(results: Sequence[VideoResult]) -> dict[Key, TapVidScores]:
    """Means over the videos that were judged."""
    judged = [result for result in results if result.error is None]
    # One pass has one set of settings, so the keys of the first video are those of all.
    keys = judged[0].scores if judged else {}
    return {key: mean_scores([result.scores[key] for result in judged]) for key in keys}
