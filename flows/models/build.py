"""The models of this process: each is built once, on first use, and shared by all episodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from extractors.backends.nano.packaged import PACKAGED, weights_digest
from extractors.build import DEPTH_ESTIMATORS, SEGMENTERS, TRACKERS
from extractors.depth import DepthEstimator
from extractors.masks import Segmenter
from extractors.track_windows import WindowedTracker
from extractors.tracks import PointTracker
from flows.config import Config, DepthConfig, MasksConfig, Profile, RunConfig, TracksConfig
from flows.models.weights import checkpoint_digest, checkpoint_path

Model = TypeVar("Model")

_built: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def segmenter(config: MasksConfig) -> Segmenter:
    """The configured source of masks."""

    def build() -> Segmenter:
        return SEGMENTERS[config.backend](**_masks_settings(config))

    return _once("masks", config.model_dump_json(exclude={"dilate", "repair"}), build)


def _masks_settings(config: MasksConfig) -> dict[str, Any]:
    """Keyword arguments of the configured backend.

    Raises:
        WeightsError: a checkpoint that it needs is missing.
    """
    if config.backend == "nano":
        return {"working_px": config.nano_working_px}
    if config.backend not in ("sam3", "grounded-sam"):
        return {}
    common = {"prompts", "choose", "robot_prompt", "every", "max_objects", "threshold", "precision"}
    settings = config.model_dump(include=common)
    if config.backend == "sam3":
        return {**settings, "plan": config.plan, "weights": checkpoint_path("sam3", config.weights)}
    detector, segmenter = masks_weights(config)
    return {
        **settings,
        "segmenter": config.segmenter,
        "weights": checkpoint_path(segmenter, config.weights),
        "detector_weights": checkpoint_path(detector, config.detector_weights),
    }


def nano_weights(config: DepthConfig) -> Path:
    """The file that nano's depth uses."""
    return PACKAGED if config.weights is None else Path(config.weights)


def depth_estimator(config: DepthConfig) -> DepthEstimator:
    """The configured depth model."""

    def build() -> DepthEstimator:
        if config.backend == "nano":
            return DEPTH_ESTIMATORS["nano"](weights=nano_weights(config), working_px=config.nano_working_px)
        name = depth_weights(config)[0]
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
    settings = _tracks_settings(config)

    def build() -> PointTracker:
        backend = TRACKERS[config.backend](**settings)
        if not tracks_weights(config) or config.window_frames is None:
            return backend
        return WindowedTracker(backend, length=config.window_frames)

    return _once("tracks", config.model_dump_json(), build)


def _tracks_settings(config: TracksConfig) -> dict[str, Any]:
    """Keyword arguments of the configured backend; what is not set is left to it.

    Raises:
        WeightsError: the checkpoint that it needs is missing.
    """
    named: dict[str, Any] = {"threshold": config.threshold}
    if names := tracks_weights(config):
        named |= config.model_dump(include={"iterations", "precision", "visible_by"})
        named["weights"] = checkpoint_path(names[0], config.weights)
    if config.backend == "cotracker3":
        named |= config.model_dump(include={"support_grid", "support_for"})
    if config.backend == "tapir":
        named |= {"causal": config.causal, "network_size": (config.tapir_px, config.tapir_px)}
    return {name: value for name, value in named.items() if value is not None}


def masks_weights(config: MasksConfig) -> Sequence[str]:
    """Checkpoints that the configured masks need; of grounded-sam, the detector's first."""
    if config.backend == "sam3":
        return ("sam3",)
    if config.backend == "grounded-sam":
        return ("grounding-dino-tiny", "sam-vit-base" if config.segmenter == "sam" else "segment-anything")
    return ()


def depth_weights(config: DepthConfig) -> Sequence[str]:
    """Checkpoints that the configured depth needs."""
    if config.backend != "video-depth-anything":
        return ()
    return (f"{'metric_' if config.metric else ''}video_depth_anything_{config.model}",)


def tracks_weights(config: TracksConfig) -> Sequence[str]:
    """Checkpoints that the configured tracks need."""
    if config.backend == "tapir":
        return ("tapir-online" if config.causal else "tapir",)
    return ("cotracker3",) if config.backend == "cotracker3" else ()


def uses_checkpoint(config: Config) -> bool:
    """Whether one of the configured networks has weights that do not come with the package; of a resolved one."""
    return bool(masks_weights(config.masks) or depth_weights(config.depth) or tracks_weights(config.tracks))


def uses_device(config: Config) -> bool:
    """Whether one of the configured networks runs on a CUDA device; of a resolved configuration."""
    if not uses_checkpoint(config):
        return False
    import torch

    return torch.cuda.is_available()


def profile_weights(profile: Profile) -> Sequence[str]:
    """Checkpoints that a profile needs with default settings."""
    config = Config(run=RunConfig(profile=profile)).resolved()
    return (*masks_weights(config.masks), *depth_weights(config.depth), *tracks_weights(config.tracks))


def weights_digests(names: Sequence[str], config: Config) -> dict[str, str]:
    """Checkpoint name -> sha256; "nano" and "nano-depth" are files of the package, or the user's own.

    Raises:
        WeightsError: a file is missing.
    """
    overrides = {"grounding-dino-tiny": config.masks.detector_weights}
    overrides.update(dict.fromkeys(tracks_weights(config.tracks), config.tracks.weights))
    overrides.update(dict.fromkeys(("sam3", "sam-vit-base", "segment-anything"), config.masks.weights))
    overrides.update(dict.fromkeys(depth_weights(config.depth), config.depth.weights))
    of_nano = {"nano": PACKAGED, "nano-depth": nano_weights(config.depth)}
    return {
        name: weights_digest(of_nano[name])
        if name in of_nano
        else checkpoint_digest(checkpoint_path(name, overrides.get(name)))
        for name in names
    }


def _once(signal: str, settings: str, build: Callable[[], Model]) -> Model:
    with _lock:
        key = (signal, settings)
        if key not in _built:
            _built[key] = build()
        return cast(Model, _built[key])
