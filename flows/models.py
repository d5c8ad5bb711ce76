"""The models of this process: each is built once, on first use, and shared by all episodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from extractors.depth import DEPTH_ESTIMATORS, DepthEstimator
from extractors.masks import SEGMENTERS, Segmenter
from extractors.tracks import TRACKERS, PointTracker
from flows.config import Config, DepthConfig, MasksConfig, TracksConfig
from flows.weights import checkpoint_digest, checkpoint_path

Model = TypeVar("Model")

_built: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def segmenter(config: MasksConfig) -> Segmenter:
    """The configured source of masks."""
    return _once("masks", config.model_dump_json(exclude={"dilate"}), SEGMENTERS[config.backend])


def depth_estimator(config: DepthConfig) -> DepthEstimator:
    """The configured depth model."""
    name = depth_weights(config)[0]

    def build() -> DepthEstimator:
        return DEPTH_ESTIMATORS[config.backend](
            size=config.model,
            metric=config.metric,
            weights=checkpoint_path(name, config.weights),
            precision=config.precision,
            input_size=config.input_size,
        )

    return _once("depth", config.model_dump_json(), build)


def tracker(config: TracksConfig) -> PointTracker:
    """The configured point tracker."""
    builder = TRACKERS[config.backend]
    if config.backend != "cotracker3":
        return _once("tracks", config.backend, builder)
    path = checkpoint_path("cotracker3", config.weights)
    return _once("tracks", config.model_dump_json(), lambda: builder(weights=path, precision=config.precision))


def masks_weights(config: MasksConfig) -> Sequence[str]:
    """Checkpoints that the configured masks need."""
    return ()


def depth_weights(config: DepthConfig) -> Sequence[str]:
    """Checkpoints that the configured depth needs."""
    if config.backend != "video-depth-anything":
        return ()
    return (f"{'metric_' if config.metric else ''}video_depth_anything_{config.model}",)


def tracks_weights(config: TracksConfig) -> Sequence[str]:
    """Checkpoints that the configured tracks need."""
    return ("cotracker3",) if config.backend == "cotracker3" else ()


def weights_digests(names: Sequence[str], config: Config) -> dict[str, str]:
    """Checkpoint name -> sha256.

    Raises:
        WeightsError: a file is missing.
    """
    overrides = {"cotracker3": config.tracks.weights}
    overrides.update(dict.fromkeys(depth_weights(config.depth), config.depth.weights))
    return {name: checkpoint_digest(checkpoint_path(name, overrides.get(name))) for name in names}


def _once(signal: str, settings: str, build: Callable[[], Model]) -> Model:
    with _lock:
        key = (signal, settings)
        if key not in _built:
            _built[key] = build()
        return cast(Model, _built[key])
