"""Scores, quality card and tags, from everything as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flows.config import Config
from flows.stages.base import Stage, StageInputs, StageOutput, read_track_sets
from packers.schema import Dataset
from packers.writer import decode
from scoring.report import ClipSignals, assess

DEPTH_SIDE = 56
"""Most rows and columns of a depth map that are judged: maps are smooth, and decoding all of them would cost more than
the rest of the stage. The same for every packet's size, because a map's extremes grow with the pixels looked at."""


def _settings(config: Config) -> Mapping[str, Any]:
    return config.scoring.model_dump(mode="json")


def _run(inputs: StageInputs) -> StageOutput:
    assessment = assess(quality_signals(inputs), inputs.config.scoring)
    report = {"scores": assessment.scores, "quality": assessment.quality, "tags": assessment.tags}
    return StageOutput({}, report)


def quality_signals(inputs: StageInputs) -> ClipSignals:
    """All that the verdict is made from, as the stages before stored it."""
    source = inputs.source
    pixels, timestamp = inputs.read("pixels"), inputs.read("timestamp")
    assert pixels is not None
    assert timestamp is not None
    kind, depth = _depth(inputs)
    intrinsics = inputs.dataset("intrinsics")
    return ClipSignals(
        language_instruction=source["language_instruction"],
        n_frames=len(pixels),
        pixels=pixels,
        timestamp=timestamp,
        fps=source["fps"],
        frame_ids=_frame_ids(source["source"].get("frame_ids")),
        action=inputs.read("action"),
        action_valid=inputs.read("action_valid"),
        state=inputs.read("state"),
        gripper=inputs.read("gripper"),
        masks=inputs.read("masks/object"),
        robot=inputs.read("masks/robot"),
        mask_score=inputs.read("masks/score"),
        depth=depth,
        depth_kind=kind,
        depth_stabilized=_thinned(inputs, "depth/stabilized") if kind == "relative" else None,
        tracks=read_track_sets(inputs, ("xy", "visibility", "on_object")),
        contact=inputs.read("contact"),
        held=inputs.read("held"),
        phase=inputs.read("phase"),
        robot_speed=inputs.read("motion/robot"),
        object_speed=inputs.read("motion/object"),
        active_span=_active_span(inputs),
        centroids_valid=inputs.read("centroids_valid"),
        intrinsics=decode(intrinsics),
        intrinsics_source=str(intrinsics.attributes["source"]),
        camera_moves=inputs.camera_moves,
        reports={name: result.record.report for name, result in inputs.results.items()},
        tags=tuple(source["tags"]),
    )


def _frame_ids(given: Any) -> list[int] | None:
    """The source's frame numbers, None where it names its frames otherwise."""
    if isinstance(given, list) and all(isinstance(number, int) for number in given):
        return given
    return None


def _active_span(inputs: StageInputs) -> tuple[int, int]:
    if not inputs.has("phase"):
        return 0, 0
    first, stop = inputs.dataset("phase").attributes["active_span"]
    return int(first), int(stop)


def _depth(inputs: StageInputs) -> tuple[Literal["relative", "metric"] | None, NDArray[np.float32] | None]:
    """The depth that is scored: the model's relative map where there is one, else the metric one."""
    relative = _thinned(inputs, "depth/relative")
    if relative is not None:
        return "relative", relative
    metric = _thinned(inputs, "depth/metric")
    return ("metric", metric) if metric is not None else (None, None)


def _thinned(inputs: StageInputs, name: str) -> NDArray[np.float32] | None:
    """A map at `DEPTH_SIDE` rows and columns at most."""
    if not inputs.has(name):
        return None
    stored = inputs.dataset(name)
    rows, columns = (thin_axis(length) for length in stored.data.shape[1:])
    values: NDArray[np.float32] = decode(
        Dataset(np.ascontiguousarray(stored.data[:, rows][:, :, columns]), stored.attributes)
    )
    return values


def thin_axis(length: int) -> NDArray[np.intp]:
    """Rows (or columns) of a map that are judged: the middles of `DEPTH_SIDE` equal parts, all of a smaller map."""
    side = min(length, DEPTH_SIDE)
    return np.asarray(np.floor((np.arange(side) + 0.5) * (length / side)), np.intp)


QUALITY = Stage(
    name="quality",
    version=6,
    inputs=(
        "source",
        "masks/*",
        "depth/*",
        "tracks/*",
        "intrinsics",
        "contact",
        "held",
        "phase",
        "motion/*",
        "centroids*",
        "shape*",
        "calibration",
        "placing",
    ),
    settings=_settings,
    run=_run,
)
