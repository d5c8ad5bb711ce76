"""Point tracks without weights: Lucas-Kanade matches, held together by affine motion layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.advance import advance
from extractors.backends.layers.assigning import assign_layers
from extractors.backends.layers.layer import Layer, noise_of, without_noise
from extractors.backends.layers.motions import Floats, apply
from extractors.backends.layers.rule import Image, LayerRule
from extractors.camera_motion import clip_camera_motion
from extractors.exposure import lit_alike
from extractors.track_queries import Posed, check_queries
from extractors.types import Frames, OnCpu, Size, Tracks, check_pixels


@dataclass(frozen=True, slots=True)
class LucasKanade(OnCpu):
    """Follows queries with their surroundings, forwards and backwards from each query's frame.

    Deterministic, on the CPU, and blind to colours it has not seen: a point is visible where its own colour is found
    within a pixel of where its layer says it is.

    Attributes:
        working_side: frames are brought to about this many pixels squared (65536 for 256) before matching.
        max_enlarging: small frames are enlarged by at most this factor.
        visible_difference: colour difference at which a point is as likely hidden as seen, grey levels of 255.
        threshold: visible means visibility score x confidence above this.
        rule: thresholds of the layers.
    """

    working_side: int = 256
    max_enlarging: float = 4.0
    visible_difference: float = 18.0
    threshold: float = 0.3
    rule: LayerRule = field(default_factory=LayerRule)

    def prepare(self, pixels: Frames) -> PreparedFrames:
        """`pixels` (T, H, W, 3) uint8 RGB, read once and kept at working size."""
        check_pixels(pixels)
        height, width = int(pixels.shape[1]), int(pixels.shape[2])
        size = self._working_size((height, width))
        images = [_resized(np.asarray(frame, dtype=np.uint8), size) for frame in pixels]
        return PreparedFrames(self, images, (height, width))

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y) through `pixels`; see `PointTracker`."""
        return self.prepare(pixels).track(queries)

    def _working_size(self, size: Size) -> Size:
        height, width = size
        scale = min(self.working_side / float(np.sqrt(height * width)), self.max_enlarging)
        return max(round(height * scale), 1), max(round(width * scale), 1)


class PreparedFrames:
    """A clip at working size, ready for any number of query sets."""

    def __init__(self, tracker: LucasKanade, images: list[Image], size: Size) -> None:
        """`images` at working size, made from frames of `size`; changed in place."""
        self._tracker, self._images, self._size = tracker, images, size
        # Of light, noise and motion the corners are better judges than the colours, which differ for all three.
        self._still = clip_camera_motion(images).moving is False
        if self._still:
            # In place, so that a long clip is never held more than twice.
            images[:] = lit_alike(images)
            images[:] = without_noise(images, noise_of(images, tracker.rule))

    @property
    def at_once(self) -> int:
        """As many as OpenCV has threads: small matches leave a second core little to do, another set does not."""
        return cv2.getNumThreads()

    def track(self, queries: NDArray[np.float32], *, posed: Posed = "anywhere") -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y), in pixels of the frames that were prepared.

        Queries on the object show it by themselves; others get points around them that may be its.
        """
        check_queries(queries, len(self._images), self._size)
        n_frames, n_points = len(self._images), len(queries)
        height, width = self._images[0].shape[:2]
        scale = np.array([width / self._size[1], height / self._size[0]])
        places = (queries[:, 1:].astype(np.float64) + 0.5) * scale - 0.5
        xy = np.zeros((n_frames, n_points, 2))
        difference, confidence = np.zeros((n_frames, n_points)), np.ones((n_frames, n_points))
        first, supported = queries[:, 0].astype(int), posed != "object"
        for frame in np.unique(first):
            chosen = np.flatnonzero(first == frame)
            xy[:, chosen], difference[:, chosen], confidence[:, chosen] = self._follow(
                int(frame), places[chosen], supported=supported
            )
        found: NDArray[np.float32] = ((xy + 0.5) / scale - 0.5).astype(np.float32)
        found[first, np.arange(n_points)] = queries[:, 1:]
        difference[first, np.arange(n_points)] = 0.0
        confidence[first, np.arange(n_points)] = 1.0
        visibility_score = _falling(difference, self._tracker.visible_difference)
        return Tracks(
            xy=found,
            visibility=visibility_score * confidence > self._tracker.threshold,
            confidence=confidence.astype(np.float32),
            visibility_score=visibility_score,
            queries=np.asarray(queries, dtype=np.float32),
        )

    def _follow(self, frame: int, places: Floats, *, supported: bool) -> tuple[Floats, Floats, Floats]:
        """Positions (T, n, 2) of `places` (n, 2) posed on `frame`, colour differences and confidence (T, n).

        A layer of which nothing is seen is carried on by guess: confidence is a half for it, and rises with the
        share of its points that are found.
        """
        visible_difference = self._tracker.visible_difference
        rule = self._tracker.rule.at(self._images[frame])
        found = assign_layers(self._images, frame, places, rule, still=self._still, supported=supported)
        members = [np.flatnonzero(found.layer == index) for index in range(len(found.motions))]
        layers = [Layer(self._images, frame, places[points], rule) if len(points) else None for points in members]
        xy = np.zeros((len(self._images), len(places), 2))
        difference, confidence = np.zeros(xy.shape[:2]), np.ones(xy.shape[:2])
        for t in range(len(self._images)):
            for index, (layer, points) in enumerate(zip(layers, members, strict=True)):
                if layer is None:
                    continue
                motion = found.motions[index, t]
                xy[t, points] = apply(motion, layer.points)
                hidden = layer.hidden(t, motion)
                difference[t, points] = hidden
                confidence[t, points] = 0.5 + 0.5 * np.mean(hidden < visible_difference)
            advance(t + 1, len(self._images))
        return xy, difference, confidence


def _falling(difference: Floats, half: float) -> NDArray[np.float32]:
    """1 for no difference, 0.5 at `half`, falling as a logistic curve of a quarter of its width."""
    score: NDArray[np.float32] = (1.0 / (1.0 + np.exp((difference - half) / (0.25 * half)))).astype(np.float32)
    return score


def _resized(frame: Image, size: Size) -> Image:
    height, width = size
    if frame.shape[:2] == size:
        return np.ascontiguousarray(frame)
    shrinks = height * width < frame.shape[0] * frame.shape[1]
    options: dict[str, Any] = {"interpolation": cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC}
    return np.asarray(cv2.resize(frame, (width, height), **options), dtype=np.uint8)
