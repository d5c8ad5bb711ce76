"""Depth: the model's relative or metric map, and what the source itself recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extractors.depth import recorded_depth
from extractors.errors import MissingDataError
from extractors.types import Depth
from flows.config import Config
from flows.models import build as models
from flows.models.device_queue import MOST_CLIPS, estimate_depth
from flows.models.device_slot import device_label
from flows.stages.base import Stage, StageInputs, StageOutput
from packers.schema import Dataset
from packers.writer import encode

RELATIVE_CONVENTION = "affine-invariant inverse depth on the model's own scale, larger is nearer"
METRIC_CONVENTION = "z along the optical axis"


def _settings(config: Config) -> Mapping[str, Any]:
    depth = config.depth
    if depth.backend in ("off", "recorded"):
        return {"backend": depth.backend}
    if depth.backend == "nano":
        return {
            "backend": "nano",
            "nano_working_px": depth.nano_working_px,
        }
    return depth.model_dump(mode="json", exclude={"stabilize", "weights", "nano_working_px"})


def _run(inputs: StageInputs) -> StageOutput:
    config = inputs.config.depth
    episode = inputs.episode
    datasets: dict[str, Dataset] = {}
    report: dict[str, Any] = {}
    device, precision = "cpu", "fp32"
    if config.backend not in ("off", "recorded"):
        estimator = models.depth_estimator(config)
        most_clips = 1 if inputs.config.run.deterministic else MOST_CLIPS
        estimated = estimate_depth(estimator, episode.pixels, size=inputs.size, most_clips=most_clips)
        name = f"depth/{estimated.kind}"
        if estimated.kind == "metric" and episode.recorded_depth is not None:
            name = "extra/depth_metric_estimated"
        datasets[name] = _encode(name, estimated)
        report.update(estimated.report)
        device, precision = device_label(estimator), estimator.precision
    if episode.recorded_depth is not None:
        recorded = recorded_depth(episode, size=inputs.size)
        datasets["depth/metric"] = _encode("depth/metric", recorded, made_by="recorded")
        report["recorded"] = dict(recorded.report)
    elif config.backend == "recorded":
        raise MissingDataError("the source records no depth for this episode; choose another depth.backend, or off")
    return StageOutput(datasets, report, backend=config.backend, device=device, precision=precision)


def _encode(name: str, depth: Depth, **attributes: Any) -> Dataset:
    convention = RELATIVE_CONVENTION if depth.kind == "relative" else METRIC_CONVENTION
    like = f"depth/{depth.kind}" if name.startswith("extra/") else None
    return encode(name, depth.values, like=like, convention=convention, **attributes)


def _weights(config: Config) -> Sequence[str]:
    return ("nano-depth",) if config.depth.backend == "nano" else models.depth_weights(config.depth)


DEPTH = Stage(name="depth", version=4, inputs=("source",), settings=_settings, run=_run, weights=_weights)
