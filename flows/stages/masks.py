"""Where the manipulated object is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.geometry import intersection_over_union
from extractors.masks import recorded_masks, repair_flicker
from extractors.types import Masks
from flows.config import Config
from flows.models import build as models
from flows.models.device_slot import device_label, device_slot
from flows.stages.base import Stage, StageInputs, StageOutput
from packers.writer import encode


def _settings(config: Config) -> Mapping[str, Any]:
    settings = config.masks.model_dump(mode="json", exclude={"dilate", "weights", "detector_weights"})
    of_all = {"backend", "repair"}
    of_texts = settings.keys() - {"nano_working_px"}
    read = {
        "nano": {*of_all, "nano_working_px"},
        "sam3": of_texts,
        "grounded-sam": of_texts,
    }
    # What only another backend reads must not make this one work again.
    return {name: settings[name] for name in sorted(read.get(config.masks.backend, of_all))}


def _run(inputs: StageInputs) -> StageOutput:
    config = inputs.config.masks
    if config.backend == "off":
        return StageOutput({}, {"reason": "masks.backend is off"}, backend="off")
    segmenter = models.segmenter(config)
    with device_slot(segmenter):
        masks = segmenter.segment(replace(inputs.episode, camera_moves=inputs.camera_moves), size=inputs.size)
    report = dict(masks.report)
    datasets = {}
    objects = masks.object
    if config.repair:
        objects, report["repair"] = repair_flicker(objects)
        datasets["extra/masks_before_repair"] = encode("extra/masks_before_repair", masks.object, like="masks/object")
    datasets["masks/object"] = encode("masks/object", objects)
    datasets["masks/score"] = encode("masks/score", masks.score)
    if masks.robot is not None and steadied_on_wrist(report, inputs.source["tags"]):
        report["no_robot"] = "the camera is on the robot, which rests before it; what moves in the picture is the scene"
    elif masks.robot is not None:
        datasets["masks/robot"] = encode("masks/robot", masks.robot)
    if masks.things is not None:
        names = list(masks.things.names)
        datasets["masks/things"] = encode("masks/things", masks.things.labels, names=names)
        report["things"] = len(names) - 1
    if config.backend != "recorded" and inputs.episode.recorded_masks is not None:
        report["recorded_j"] = _agreement(objects, recorded_masks(inputs.episode, size=inputs.size))
    return StageOutput(
        datasets,
        report,
        backend=config.backend,
        device=device_label(segmenter),
        precision=segmenter.precision,
    )


def steadied_on_wrist(report: Mapping[str, Any], tags: Sequence[str]) -> bool:
    """Whether masks are told by what moves in the picture, as `report` says, of a camera that the robot carries."""
    return "steadied" in report and "wrist-camera" in tags


def _agreement(found: NDArray[np.bool_], truth: Masks) -> float:
    """Mean J (intersection over union) with the masks the source records, for the record and the demo."""
    return round(float(intersection_over_union(found, truth.object).mean()), 4)


def _weights(config: Config) -> Sequence[str]:
    weights = models.masks_weights(config.masks)
    # It draws the masks, or chooses among a detector's.
    asked = config.masks.backend == "nano" or (weights and config.masks.choose == "best")
    return ("nano", *weights) if asked else weights


MASKS = Stage(name="masks", version=9, inputs=("source",), settings=_settings, run=_run, weights=_weights)
