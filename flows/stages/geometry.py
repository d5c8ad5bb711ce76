"""What follows from masks, depth and tracks without a model.

Intrinsics, dilated masks, stabilized depth, centroids, shape, contact, motion and phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.anchoring import anchor_background
from extractors.centroids import extract_centroids
from extractors.consistency import check_consistency
from extractors.contact import estimate_contact
from extractors.geometry import dilate
from extractors.motion import describe_motion
from extractors.phases import PHASES, phase_ends
from extractors.shape import describe_shape
from extractors.types import Camera, Centroids, Contact, Depth, SceneTracks
from flows.config import Config
from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.calibration import found_camera
from flows.stages.camera import hand_places, packet_camera, scene_tracks
from packers.schema import Dataset
from packers.writer import decode, encode


def _settings(config: Config) -> Mapping[str, Any]:
    return {
        "geometry": config.geometry.model_dump(mode="json", exclude={"calibration", "calibration_sha256"}),
        "contact": asdict(config.contact),
        "dilate": sorted(set(config.masks.dilate)),
        "stabilize": config.depth.stabilize,
    }


def _run(inputs: StageInputs) -> StageOutput:
    datasets: dict[str, Dataset] = {}
    report: dict[str, Any] = {}
    camera = packet_camera(inputs, found_camera(inputs))
    datasets["intrinsics"] = encode(
        "intrinsics", camera.K.astype(np.float32), source=camera.source, sigma=float(camera.sigma)
    )
    masks = inputs.read("masks/object")
    if masks is not None:
        for radius in sorted(set(inputs.config.masks.dilate)):
            name = f"masks/object_dilate{radius}"
            datasets[name] = encode(name, dilate(masks, radius))
    _add_stabilized(inputs, datasets, report)
    depth = _object_depth(inputs, datasets)
    centroids = None if masks is None else _add_object(inputs, masks, depth, camera, datasets, report)
    tracks = scene_tracks(inputs)
    contact = _add_contact(inputs, masks, tracks, datasets, report)
    _add_motion(inputs, masks, tracks, contact, datasets, report)
    report["consistency"] = check_consistency(
        centroids=centroids,
        contact=contact,
        ee_xyz=hand_places(inputs),
        masks=masks,
        depth=depth,
        tracks=tracks,
        fps=inputs.source["fps"],
        camera_moves=inputs.camera_moves,
    )
    return StageOutput(datasets, report)


def _add_stabilized(inputs: StageInputs, datasets: dict[str, Dataset], report: dict[str, Any]) -> None:
    relative = inputs.read("depth/relative")
    if relative is None or not inputs.config.depth.stabilize:
        return
    pixels = inputs.read("pixels")
    assert pixels is not None
    anchored = anchor_background(
        relative,
        inputs.read("masks/object"),
        inputs.read("masks/robot"),
        pixels,
        camera_moves=inputs.camera_moves,
        fps=inputs.source["fps"],
        tracks=scene_tracks(inputs),
        cuts=inputs.results["depth"].record.report.get("cuts", ()),
    )
    report["anchoring"] = dict(anchored.report)
    if anchored.values is None or anchored.stabilizer is None:
        return
    datasets["depth/stabilized"] = encode(
        "depth/stabilized", anchored.values, convention="depth/relative with the still background anchored"
    )
    datasets["depth/stabilizer"] = encode("depth/stabilizer", anchored.stabilizer)


def _add_object(
    inputs: StageInputs,
    masks: NDArray[np.bool_],
    depth: Depth | None,
    camera: Camera,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> Centroids | None:
    """Centroids and shape, from metric depth where there is some, else from the steadiest relative depth."""
    if depth is None:
        report["centroids"] = {"reason": "depth is missing"}
        return None
    config = inputs.config.geometry
    method = config.centroid
    centroids = extract_centroids(
        masks, depth, camera, method=method, depth_sigma=config.depth_sigma, mask_sigma_px=config.mask_sigma_px
    )
    report["centroids"] = dict(centroids.report)
    shape = describe_shape(masks, depth, camera, centroids)
    unit = {"units": centroids.unit, "method": method, "depth": depth.report["dataset"]}
    datasets["centroids"] = encode("centroids", centroids.xyz, **unit)
    datasets["centroids_valid"] = encode("centroids_valid", centroids.valid)
    datasets["centroids_sigma"] = encode("centroids_sigma", centroids.sigma, units=centroids.unit)
    by_column = {"units": f"{centroids.unit} (columns 0 to 5 and 8), 1 (columns 6, 7 and 9)"}
    datasets["shape_descriptors"] = encode("shape_descriptors", shape.values, **unit | by_column)
    datasets["shape_descriptors_valid"] = encode("shape_descriptors_valid", shape.valid)
    return centroids


def _object_depth(inputs: StageInputs, datasets: Mapping[str, Dataset]) -> Depth | None:
    metric = inputs.read("depth/metric")
    if metric is not None:
        return Depth(np.nan_to_num(metric).astype(np.float32), "metric", {"dataset": "depth/metric"})
    if "depth/stabilized" in datasets:
        return Depth(decode(datasets["depth/stabilized"]), "relative", {"dataset": "depth/stabilized"})
    relative = inputs.read("depth/relative")
    return None if relative is None else Depth(relative, "relative", {"dataset": "depth/relative"})


def _add_contact(
    inputs: StageInputs,
    masks: NDArray[np.bool_] | None,
    tracks: SceneTracks | None,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> Contact | None:
    gripper = inputs.read("gripper")
    if gripper is None and (masks is None or tracks is None):
        report["contact"] = {"reason": "neither a gripper signal nor object tracks"}
        return None
    contact = estimate_contact(
        gripper,
        masks=masks,
        robot_masks=inputs.read("masks/robot"),
        tracks=tracks,
        fps=inputs.source["fps"],
        camera_moves=inputs.camera_moves,
        rule=inputs.config.contact,
    )
    datasets["contact"] = encode("contact", contact.probability, contact_onset=contact.onset)
    datasets["held"] = encode("held", contact.held)
    report["contact"] = dict(contact.report)
    return contact


def _add_motion(
    inputs: StageInputs,
    masks: NDArray[np.bool_] | None,
    tracks: SceneTracks | None,
    contact: Contact | None,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> None:
    hand = hand_places(inputs)
    if tracks is None and hand is None:
        report["motion"] = {"reason": "neither tracks nor the hand's position"}
        return
    timestamp = inputs.read("timestamp")
    assert timestamp is not None
    motion = describe_motion(
        timestamp,
        tracks=tracks,
        masks=masks,
        robot_masks=inputs.read("masks/robot"),
        contact=contact,
        hand=hand,
        camera_moves=inputs.camera_moves,
    )
    span = [int(frame) for frame in motion.active]
    datasets["phase"] = encode("phase", motion.phase, phases=list(PHASES), acts_on="masks/object", active_span=span)
    for name, speeds in (("motion/robot", motion.robot), ("motion/object", motion.object)):
        datasets[name] = encode(name, speeds)
        datasets[f"{name}_valid"] = encode(f"{name}_valid", np.isfinite(speeds))
    report["motion"] = {
        "phases": [list(end) for end in phase_ends(motion.phase)],
        "active_span": span,
        "hand": "state" if hand is not None else None,
    }


GEOMETRY = Stage(
    name="geometry",
    version=7,
    inputs=("source", "masks/*", "depth/*", "tracks/*", "hand_pose*", "calibration"),
    settings=_settings,
    run=_run,
)
