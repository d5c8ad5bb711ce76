"""The robot's hand, and the camera as the hand's motion tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.backgrounds import register, still_background
from extractors.errors import GeometryError
from extractors.hand_pose import HandPose, hand_pose_from_state
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import WRIST_PRIORS, Calibration, Priors, Rig, TrackedClip
from extractors.types import Camera, IntrinsicsSource
from flows.config import Config
from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.camera import camera_settings, packet_camera, scene_tracks
from packers.schema import Dataset
from packers.writer import encode

MOST_FRAMES = 160
"""Frames of a clip that the camera is solved from, evenly spread: more cost time, and sigmas fall with their root."""

MODEL_SIGMAS = 3.0
"""A table of camera models says what a unit usually has; which unit stood there, nobody has checked."""

LEAST_MODEL_SIGMA = 0.1

LEAST_TRAVEL_M = 0.03
"""Deviation of the hand's path below which no clip was judged observable (generated clips, travel 1 to 40 cm)."""

OFFSET_SIGMAS, OFFSET_S = 3.0, 0.04
"""A delay that is told by so many sigmas, and is more than one frame of a fast camera, earns the tag `time-offset`."""


def _settings(config: Config) -> Mapping[str, Any]:
    robot = config.robot.model_dump(mode="json")
    if config.geometry.calibration == "off":
        return {"robot": robot, "calibration": "off"}
    return {"robot": robot, "calibration": config.geometry.calibration, **camera_settings(config)}


def _run(inputs: StageInputs) -> StageOutput:
    hand, reason = read_hand(inputs)
    if hand is None:
        return StageOutput({}, {"hand": {"reason": reason}, "reasons": [reason], "tags": []})
    datasets = {
        "hand_pose": encode("hand_pose", hand.pose),
        "hand_pose_valid": encode("hand_pose_valid", hand.valid),
    }
    report: dict[str, Any] = {"hand": dict(hand.report)}
    found = _find_camera(inputs, hand)
    report |= {**found.report, "reasons": list(found.reasons), "tags": sorted({*hand.tags, *found.tags})}
    if found.calibration is not None and not found.reasons:
        datasets |= _camera_datasets(found, hand)
    return StageOutput(datasets, report)


def read_hand(inputs: StageInputs) -> tuple[HandPose | None, str]:
    """The hand's pose from the state, or why there is none."""
    state, robot = inputs.read("state"), inputs.config.robot
    if state is None:
        return None, "the source records no state"
    names = robot.state_names or tuple(inputs.dataset("state").attributes.get("names", ()))
    if len(names) not in (0, state.shape[1]):
        return None, f"robot.state_names has {len(names)} names for a state of {state.shape[1]} numbers"
    try:
        hand = hand_pose_from_state(
            state, names, prefix=robot.prefix, length_unit=robot.length_unit, angle_unit=robot.angle_unit
        )
    except GeometryError as error:
        return None, str(error)
    return hand, ""


def found_camera(inputs: StageInputs) -> Camera | None:
    """The intrinsics that this stage found, at the packet's size; None where the camera is not observable."""
    report = inputs.results["calibration"].record.report if "calibration" in inputs.results else {}
    found = report.get("camera")
    if found is None or report["reasons"]:
        return None
    height, width = inputs.size
    focal = float(found["focal_px"])
    aspect = float(found["pixel_aspect"])
    return Camera(
        fx=focal,
        fy=focal * aspect,
        cx=(width - 1) / 2,
        cy=(height - 1) / 2,
        width=width,
        height=height,
        source="estimated",
        sigma=float(found["focal_sigma"]),
    )


def known_camera(inputs: StageInputs) -> KnownCamera | None:
    """The camera that stands still with its pose and what is not known of it; None where it is not observable."""
    extrinsics = inputs.read("extrinsics")
    if extrinsics is None:
        return None
    found = inputs.results["calibration"].record.report["camera"]
    covariance = np.asarray(found["covariance"], np.float64)
    return KnownCamera(found["focal_px"], extrinsics.astype(np.float64), found["delay_s"], covariance)


def tracked_clip(inputs: StageInputs, hand_pose: NDArray[Any], *, of_object: bool = False) -> TrackedClip | None:
    """The clip's tracks with the hand's pose; those of the object apart, as it may turn in the hand."""
    tracks = scene_tracks(inputs)
    timestamp = inputs.read("timestamp")
    if tracks is None or timestamp is None:
        return None
    chosen = tracks.on_object if of_object else ~tracks.on_object
    camera = packet_camera(inputs)
    return TrackedClip(
        tracks.xy[:, chosen],
        tracks.visibility[:, chosen],
        hand_pose,
        timestamp,
        inputs.size,
        camera.fy / camera.fx,
    )


def beliefs(source: IntrinsicsSource, focal_widths: float, sigma: float, rig: Rig) -> Priors:
    """What is believed of the camera before any track is seen.

    Args:
        source: how the intrinsics are known.
        focal_widths: their focal length in widths of the frame.
        sigma: its relative standard deviation.
        rig: which way round the camera is mounted.
    """
    broad = WRIST_PRIORS if rig == "wrist" else Priors()
    if source == "calibrated":
        return replace(broad, focal=focal_widths, focal_log_sigma=max(sigma, 0.01))
    if source == "camera-model":
        return replace(broad, focal=focal_widths, focal_log_sigma=max(MODEL_SIGMAS * sigma, LEAST_MODEL_SIGMA))
    return broad


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A calibration with its report, or why there is none."""

    calibration: Calibration | None
    rig: Rig
    reasons: tuple[str, ...]
    tags: tuple[str, ...]
    report: Mapping[str, Any]


def _find_camera(inputs: StageInputs, hand: HandPose) -> _Found:
    wrist = "wrist-camera" in inputs.source["tags"] or inputs.camera_moves is True
    rig: Rig = "wrist" if wrist else "fixed"

    def refused(reason: str, *tags: str, **report: Any) -> _Found:
        return _Found(None, rig, (reason,), ("not-observable", *tags), report)

    if inputs.config.geometry.calibration == "off":
        return _Found(None, rig, ("geometry.calibration is off",), (), {})
    clip = tracked_clip(inputs, hand.pose)
    if clip is None:
        return refused("not observable, because the clip has no tracks")
    travel = float(np.sqrt(hand.pose[hand.valid, :3, 3].var(axis=0).sum()))
    if travel < LEAST_TRAVEL_M:
        return refused(f"not observable, because the hand's path deviates by {travel:.3f} m, below {LEAST_TRAVEL_M} m")
    bump = 0.0 if wrist else nudge(inputs)
    if bump is None:
        return refused(
            "not observable, because the still background of the clip's end is not that of its start: the camera was "
            "moved in between",
            "camera-bumped",
        )
    before = packet_camera(inputs)
    try:
        found = calibrate_camera(
            [thinned(clip)],
            rig=rig,
            priors=beliefs(before.source, before.fx / inputs.size[1], before.sigma, rig),
        )
    except GeometryError as error:
        return refused(f"not observable, because {error}")
    report = {"camera": calibration_report(found, clip, before), "rig": rig, "background_moved": bump}
    if not found.observable:
        reasons = tuple(f"not observable, because {reason}" for reason in found.reasons)
        return _Found(found, rig, reasons, ("not-observable",), report)
    late = abs(found.delay_s) > max(OFFSET_SIGMAS * found.delay_sigma_s, OFFSET_S)
    return _Found(found, rig, (), ("calibrated-by-hand", *(["time-offset"] if late else [])), report)


def nudge(inputs: StageInputs) -> float | None:
    """How far the picture moves between the clip's first and last third, in widths; None: it is another view."""
    pixels, objects, robot = (inputs.read(name) for name in ("pixels", "masks/object", "masks/robot"))
    assert pixels is not None
    third = max(1, len(pixels) // 3)
    masks = [mask for mask in (objects, robot) if mask is not None]
    moving = np.logical_or.reduce(masks) if masks else None
    first, last = (
        still_background(pixels[part], None if moving is None else moving[part])
        for part in (slice(None, third), slice(-third, None))
    )
    found = register(first, last)
    return found.moved if found.same_view else None


def thinned(clip: TrackedClip) -> TrackedClip:
    """The clip with at most `MOST_FRAMES` frames."""
    n_frames = len(clip.timestamp)
    if n_frames <= MOST_FRAMES:
        return clip
    kept = np.unique(np.linspace(0, n_frames - 1, MOST_FRAMES).round().astype(int))
    return replace(
        clip,
        xy=clip.xy[kept],
        visibility=clip.visibility[kept],
        hand_pose=clip.hand_pose[kept],
        timestamp=clip.timestamp[kept],
    )


def calibration_report(found: Calibration, clip: TrackedClip, before: Camera | None) -> dict[str, Any] | None:
    """Numbers of a calibration, JSON types only; None where nothing was solved."""
    if not np.isfinite(found.focal_px):
        return None
    width = clip.size[1]
    report: dict[str, Any] = {
        "focal_px": found.focal_px,
        "pixel_aspect": clip.pixel_aspect,
        "focal_sigma": found.focal_sigma,
        "position_sigma_m": found.position_sigma_m,
        "rotation_sigma_deg": found.rotation_sigma_deg,
        "delay_s": found.delay_s,
        "delay_sigma_s": found.delay_sigma_s,
        "residual_px": found.residual * width,
        "carrier_from_camera": found.carrier_from_camera.tolist(),
        "covariance": found.covariance.tolist(),
        "tracks_riding": int(found.riding.sum()),
        "tracks_moving": int(found.report["moving"]),
        "halves_apart": found.report["halves_apart"],
    }
    if before is not None and before.source != "assumed":
        report["focal_of_recorded"] = found.focal_px / before.fx
    return report


def _camera_datasets(found: _Found, hand: HandPose) -> dict[str, Dataset]:
    calibration = found.calibration
    assert calibration is not None
    about: dict[str, Any] = {
        "position_sigma_m": calibration.position_sigma_m,
        "rotation_sigma_deg": calibration.rotation_sigma_deg,
        "delay_s": calibration.delay_s,
    }
    if found.rig == "fixed":
        return {"extrinsics": encode("extrinsics", calibration.carrier_from_camera, **about)}
    riding = calibration.riding
    pose = hand.pose.astype(np.float64) @ calibration.carrier_from_camera
    return {
        "hand_from_camera": encode("hand_from_camera", calibration.carrier_from_camera, **about),
        "camera_pose": encode("camera_pose", pose),
        "camera_pose_valid": encode("camera_pose_valid", hand.valid),
        "scene_points": encode("scene_points", calibration.points[riding]),
        "scene_points_sigma": encode("scene_points_sigma", calibration.points_sigma[riding]),
    }


CALIBRATION = Stage(
    name="calibration", version=1, inputs=("source", "masks/*", "tracks/*"), settings=_settings, run=_run
)
"""Report: `hand` (names, units, convention, or the reason for none), `camera` (its numbers, also where it is refused),
`reasons` (why no camera is stored), `tags`."""
