"""The robot's hand, and the camera as the hand's motion tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from extractors.backgrounds import BUMPED_WIDTHS, still_background
from extractors.errors import ConfigError, GeometryError
from extractors.hand_pose import HandPose
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.known import KnownCamera, Riders, riders_of
from extractors.handeye.problem import WRIST_PRIORS, Calibration, Floats, Priors, Rig, TrackedClip
from extractors.handeye.sight import Sight, seen_again
from extractors.matching import body_alone
from extractors.robot_tracks import follow_robot
from extractors.tracks import TrackSet
from extractors.types import Camera, IntrinsicsSource, SceneTracks, Tracks
from flows.config import Config
from flows.output.calibrations import find_set_up, read_calibrations, setup_of
from flows.stages.base import SCENE_TRACKS, Stage, StageInputs, StageOutput
from flows.stages.camera import camera_settings, packet_camera, scene_tracks
from flows.stages.hand import read_hand
from flows.stages.tracks import encoded_set
from packers.schema import Dataset
from packers.writer import encode

MOST_FRAMES, MOST_ON_ROBOT = 160, 10_000
"""Frames of a clip that the camera is solved from, evenly spread, and places of points on the robot in them: more cost
time, and tracks are wrong alike in neighbouring frames. (Of the scene's tracks few move, nobody knows yet which.)"""

TRACK_DRIFT = 1.25
"""`drift` of the tracks that packets have: with it nine in ten errors lie within two sigmas on 70 generated episodes of
1 to 10 frames a second (docs/benchmarks.md); without it 83 to 88 in a hundred."""

LOOKS = 2
"""Times that points on the robot are matched again before the camera they told; a third changed nothing any more."""

MODEL_SIGMAS = 3.0
"""A table of camera models says what a unit usually has; which unit stood there, nobody has checked."""

LEAST_MODEL_SIGMA = 0.1

_Clips = TypeVar("_Clips")

LEAST_TRAVEL_M = 0.03
"""Deviation of the hand's path below which no clip was judged observable (generated clips, travel 1 to 40 cm)."""

UNLIKE, LEAST_UNLIKE_WIDTHS = 3.0, 0.008
"""A clip whose tracks are off by so many times what the others' are, and by two pixels at 256, does not fit its set-up:
its states are of another base frame, or the camera was moved where the background does not show it."""

MOVING_TRACKS = 8
"""A clip in which so many tracks move, and none as its set-up's camera would see its hand move, contradicts it."""

LEAST_STILL_TRACKS = 10
"""Fewest tracks seen at both ends of a clip that say whether the camera was nudged in between."""

ASPECT_TOLERANCE = 0.01

OFFSET_SIGMAS, OFFSET_S = 3.0, 0.04
"""A delay that is told by so many sigmas, and is more than one frame of a fast camera, earns the tag `time-offset`."""


def _settings(config: Config) -> Mapping[str, Any]:
    tracks = config.tracks
    posed = {"points": tracks.robot, "seed": tracks.seed} if tracks.backend != "off" and tracks.robot else None
    used = {"robot": config.robot.model_dump(mode="json", exclude={"urdf"}), "tracks": posed}
    if config.geometry.calibration == "off":
        return {**used, "calibration": "off"}
    if config.geometry.calibration_file is not None:
        return {**used, "calibration": config.geometry.calibration_sha256, **camera_settings(config)}
    return {**used, "calibration": "auto", **camera_settings(config)}


def _run(inputs: StageInputs) -> StageOutput:
    hand, reason = read_hand(inputs)
    if hand is None:
        return StageOutput({}, {"hand": {"reason": reason}, "reasons": [reason], "tags": []})
    datasets = {
        "hand_pose": encode("hand_pose", hand.pose),
        "hand_pose_valid": encode("hand_pose_valid", hand.valid),
    }
    report: dict[str, Any] = {"hand": dict(hand.report)}
    robot = _robot_points(inputs)
    found = _find_camera(inputs, hand, robot)
    report |= {**found.report, "reasons": list(found.reasons), "tags": sorted({*hand.tags, *found.tags})}
    if not found.reasons:
        datasets |= _camera_datasets(found, hand)
    robot = found.robot or robot
    if robot is not None:
        tracks, count = robot.tracks, len(robot.tracks.queries)
        seen = float(tracks.visibility.mean())
        report["robot_tracks"] = {"points": count, "visible_share": seen, "matched_again": robot.matched is not None}
        datasets |= encoded_set("robot", TrackSet(tracks, np.zeros(count, np.bool_)))
    return StageOutput(datasets, report)


@dataclass(frozen=True, slots=True, eq=False)
class _RobotPoints:
    """Points on the robot.

    Attributes:
        alone: the pictures that they are followed in (see `body_alone`).
        tracks: of them.
        matched: what they were matched again with, before a camera.
    """

    alone: NDArray[np.uint8]
    tracks: Tracks
    matched: Sight | None = None


def _robot_points(inputs: StageInputs) -> _RobotPoints | None:
    """Points on the robot, whatever the tracker of the others; None without masks of it, or where none are wanted."""
    config = inputs.config.tracks
    masks = inputs.read("masks/robot") if config.robot and config.backend != "off" else None
    if masks is None or not masks.any():
        return None
    pixels = inputs.read("pixels")
    assert pixels is not None
    alone = body_alone(pixels, masks)
    return _RobotPoints(alone, follow_robot(alone, masks, count=config.robot, seed=config.seed))


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
    return _calibrated(inputs, "extrinsics")


def wrist_camera(inputs: StageInputs) -> KnownCamera | None:
    """The camera on the wrist with its place in the hand's frame; None where it is not observable."""
    return _calibrated(inputs, "hand_from_camera")


def _calibrated(inputs: StageInputs, name: str) -> KnownCamera | None:
    carrier_from_camera = inputs.read(name)
    if carrier_from_camera is None:
        return None
    found = inputs.results["calibration"].record.report["camera"]
    covariance = np.asarray(found["covariance"], np.float64)
    return KnownCamera(found["focal_px"], carrier_from_camera.astype(np.float64), found["delay_s"], covariance)


def _on_wrist(inputs: StageInputs) -> bool:
    return "wrist-camera" in inputs.source["tags"] or inputs.camera_moves is True


def telling_tracks(*, on_wrist: bool, of_robot: bool) -> Sequence[str]:
    """Track sets that tell the camera: of one that stands those on the robot alone, where there are any (`of_robot`).

    Others only rarely ride on the hand.
    """
    return ("robot",) if of_robot and not on_wrist else SCENE_TRACKS


def tracked_clip(inputs: StageInputs, hand_pose: NDArray[Any], *, of_object: bool = False) -> TrackedClip | None:
    """The tracks that tell the camera, with the hand's pose; the object's apart, as it may turn in the hand."""
    of_robot = not of_object and inputs.has("tracks/robot/xy")
    tracks = scene_tracks(inputs, telling_tracks(on_wrist=_on_wrist(inputs), of_robot=of_robot))
    timestamp = inputs.read("timestamp")
    if tracks is None or timestamp is None:
        return None
    chosen = tracks.on_object if of_object else ~tracks.on_object
    return _clip(inputs, tracks.xy[:, chosen], tracks.visibility[:, chosen], hand_pose, timestamp)


def _clip(
    inputs: StageInputs,
    xy: NDArray[np.float32],
    visibility: NDArray[np.bool_],
    hand_pose: NDArray[Any],
    timestamp: NDArray[Any],
) -> TrackedClip:
    camera = packet_camera(inputs)
    return TrackedClip(xy, visibility, hand_pose, timestamp, inputs.size, camera.fy / camera.fx)


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
    """A camera with its report, or why there is none.

    Attributes:
        rig: how it is mounted.
        reasons: why it is not stored; () where it is.
        report: what the stage reports: `camera`, `rig`, and what was looked at.
        scene: points of the scene and their sigma, of a wrist camera.
        robot: points on the robot, where they were looked at.
    """

    rig: Rig
    reasons: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    scene: tuple[Floats, Floats] | None = None
    robot: _RobotPoints | None = None


def _refused(rig: Rig, reason: str, *tags: str, **report: Any) -> _Found:
    return _Found(rig, (f"not observable, because {reason}",), ("not-observable", *tags), report)


def _find_camera(inputs: StageInputs, hand: HandPose, robot: _RobotPoints | None) -> _Found:
    wrist = _on_wrist(inputs)
    rig: Rig = "wrist" if wrist else "fixed"
    config = inputs.config.geometry
    if config.calibration == "off":
        return _Found(rig, ("geometry.calibration is off",))
    tracks, timestamp = scene_tracks(inputs), inputs.read("timestamp")
    if tracks is None or timestamp is None:
        return _refused(rig, "the clip has no tracks")
    robot = None if wrist else robot
    if robot is not None:
        clip = _clip(inputs, robot.tracks.xy, robot.tracks.visibility, hand.pose, timestamp)
    else:
        scene = ~tracks.on_object
        clip = _clip(inputs, tracks.xy[:, scene], tracks.visibility[:, scene], hand.pose, timestamp)
    moved = None if wrist else nudge(tracks)
    if moved is not None and moved > BUMPED_WIDTHS:
        reason = f"the still scene is {moved:.1%} of the width off its place at the clip's start: the camera was moved"
        return _refused(rig, reason, "camera-bumped", background_moved=moved)
    try:
        found = (
            _from_clip(inputs, clip, rig, robot)
            if config.calibration_file is None
            else _from_file(inputs, clip, rig, robot, config.calibration_file)
        )
    except GeometryError as error:
        return _refused(rig, str(error))
    return replace(found, report={**found.report, "rig": rig, "background_moved": moved})


def _from_clip(inputs: StageInputs, clip: TrackedClip, rig: Rig, robot: _RobotPoints | None) -> _Found:
    """The camera that this clip tells."""
    travel = travel_m(clip.hand_pose)
    if travel < LEAST_TRAVEL_M:
        return _refused(rig, f"the hand's path deviates by {travel:.3f} m, below {LEAST_TRAVEL_M} m")
    before = packet_camera(inputs)
    priors = beliefs(before.source, before.fx / inputs.size[1], before.sigma, rig)
    solve = partial(calibrate_camera, rig=rig, priors=priors, drift=TRACK_DRIFT)
    if robot is None:
        found = solve([thinned(clip, of_robot=False)])
    else:
        found, (matched, clip) = found_again(
            lambda seen, **how: solve([thinned(seen[1], of_robot=True)], **how),
            lambda seen, found: _look_again(*seen, camera_of(found), found),
            (robot, clip),
        )
        robot = matched
    report = {"camera": calibration_report(found, clip, before)}
    if not found.observable:
        reasons = tuple(f"not observable, because {reason}" for reason in found.reasons)
        return _Found(rig, reasons, ("not-observable",), report, robot=robot)
    scene = (found.points[found.riding], found.points_sigma[found.riding]) if rig == "wrist" else None
    late = is_late(found.delay_s, found.delay_sigma_s)
    return _Found(rig, (), ("calibrated-by-hand", *(["time-offset"] if late else [])), report, scene, robot)


def found_again(
    solve: Callable[..., Calibration], look_again: Callable[[_Clips, Calibration], _Clips], clips: _Clips
) -> tuple[Calibration, _Clips]:
    """The camera of clips whose points on the robot are matched again before it, and the clips with these.

    Args:
        solve: the camera of clips; takes `start` and `judged` as `calibrate_camera` does.
        look_again: the clips with points matched again before a camera.
        clips: as both take them.
    """
    found = solve(clips, judged=LOOKS == 0)
    for looks_left in range(LOOKS - 1, -1, -1):
        if not np.isfinite(found.focal_px):
            break
        seen = look_again(clips, found)
        again = solve(seen, start=found, judged=looks_left == 0)
        if not np.isfinite(again.focal_px):
            return solve(clips, start=found), clips
        found, clips = again, seen
    return found, clips


def _look_again(
    robot: _RobotPoints, clip: TrackedClip, camera: KnownCamera, found: Calibration | Riders
) -> tuple[_RobotPoints, TrackedClip]:
    """Points on the robot matched again as a camera should see them, and the clip with them."""
    posed = robot.tracks.queries[:, 0].astype(int)
    clip, seen = seen_again(robot.alone, clip, camera, found.places, found.riding, posed, robot.matched)
    score = clip.visibility.astype(np.float32)
    tracks = Tracks(clip.xy, clip.visibility, score, score, robot.tracks.queries)
    return _RobotPoints(robot.alone, tracks, matched=seen), clip


def _from_file(inputs: StageInputs, clip: TrackedClip, rig: Rig, robot: _RobotPoints | None, file: Path) -> _Found:
    """The camera of the episode's set-up, if this clip fits it."""
    set_ups, digest = read_calibrations(file)
    if digest != inputs.config.geometry.calibration_sha256:
        raise ConfigError(f"calibrations {file} changed since the run began; run again")
    background = clip_background(inputs, slice(None))
    found, reason = find_set_up(set_ups, setup_of(inputs.source["source"]), inputs.episode_id, background, rig)
    if found is None:
        return _refused(rig, reason, *(["camera-bumped"] if "bumped" in reason else []), file_sha256=digest)
    about = {"file_sha256": digest, "set_up": found.name}
    if found.reasons or found.camera is None:
        return _refused(rig, f"set-up {found.name} is not: {'; '.join(found.reasons)}", **about)
    if abs(float(found.camera["pixel_aspect"]) / clip.pixel_aspect - 1) > ASPECT_TOLERANCE:
        return _refused(rig, f"set-up {found.name} was calibrated on frames of another shape", **about)
    width = clip.size[1]
    scale = width / found.size[1]
    camera = {**found.camera, "focal_px": found.camera["focal_px"] * scale}
    before = packet_camera(inputs)
    if before.source != "assumed":
        camera["focal_of_recorded"] = camera["focal_px"] / before.fx
    # A hand that hardly moves says nothing against a camera that others have told.
    riders = riders_of(clip, found.known(width), rig=rig, priors=beliefs("assumed", 1.0, 1.0, rig))
    usual = found.camera["residual_px"] / found.size[1]
    if riders.reasons and riders.report["moving"] >= MOVING_TRACKS and travel_m(clip.hand_pose) >= LEAST_TRAVEL_M:
        reason = f"{riders.reasons[0]}, of {riders.report['moving']} that move, before the camera of {found.name}"
        return _refused(rig, reason, camera=camera, **about)
    if np.isfinite(riders.residual) and riders.residual > max(UNLIKE * usual, LEAST_UNLIKE_WIDTHS):
        reason = f"the hand is seen {riders.residual * width:.1f} px from where set-up {found.name} has it"
        return _refused(rig, reason, "camera-bumped", camera=camera, **about)
    # Judged before they are looked for where this camera has them, which brings them nearer to it.
    riders, robot = _riders_again(clip, found.known(width), rig, robot, riders)
    camera["tracks_riding"], camera["residual_px"] = int(riders.riding.sum()), found.camera["residual_px"] * scale
    if np.isfinite(riders.residual):
        camera["residual_px"] = riders.residual * width
    scene = (riders.points[riders.riding], riders.points_sigma[riders.riding]) if rig == "wrist" else None
    late = is_late(camera["delay_s"], camera["delay_sigma_s"])
    tags = ("calibrated-by-hand", *(["time-offset"] if late else []))
    return _Found(rig, (), tags, {"camera": camera, **about}, scene, robot)


def _riders_again(
    clip: TrackedClip, camera: KnownCamera, rig: Rig, robot: _RobotPoints | None, riders: Riders
) -> tuple[Riders, _RobotPoints | None]:
    """The tracks that ride before a known camera, those on the robot matched again before it."""
    for _ in range(LOOKS):
        if robot is None or riders.reasons:
            break
        matched, clip_again = _look_again(robot, clip, camera, riders)
        again = riders_of(clip_again, camera, rig=rig, priors=beliefs("assumed", 1.0, 1.0, rig))
        if again.reasons:
            break
        riders, clip, robot = again, clip_again, matched
    return riders, robot


def camera_of(found: Calibration) -> KnownCamera:
    """The camera that was found, as one that is known exactly."""
    return KnownCamera(found.focal_px, found.carrier_from_camera, found.delay_s)


def travel_m(hand_pose: NDArray[Any]) -> float:
    """Deviation of the hand's path (T, 4, 4) about its middle, metres; rows that are not known left out."""
    return float(np.sqrt(np.nanvar(np.asarray(hand_pose, np.float64)[:, :3, 3], axis=0).sum()))


def is_late(delay_s: float, sigma_s: float) -> bool:
    """Whether pictures and states are apart by a time that counts and is told."""
    return abs(delay_s) > max(OFFSET_SIGMAS * sigma_s, OFFSET_S)


def nudge(tracks: SceneTracks) -> float | None:
    """How far even the stillest quarter of the tracks moves from the clip's first quarter to its last, widths.

    None where too few are seen in both. A camera that is nudged moves all of them; robots leave a quarter alone. By
    tracks, and not by pictures: an arm that waits in one place for a quarter
    of the clip is background to a median of pictures, and hides another part of the scene at the end.
    """
    quarter = max(1, len(tracks.xy) // 4)
    parts = [slice(None, quarter), slice(-quarter, None)]
    seen = np.logical_and.reduce([tracks.visibility[part].any(axis=0) for part in parts]) & ~tracks.on_object
    if seen.sum() < LEAST_STILL_TRACKS:
        return None
    places = [
        np.nanmedian(np.where(tracks.visibility[part][:, seen, None], tracks.xy[part][:, seen], np.nan), axis=0)
        for part in parts
    ]
    moved = np.linalg.norm(places[1] - places[0], axis=1)
    return float(np.quantile(moved, 0.25)) / tracks.width


def clip_background(inputs: StageInputs, part: slice) -> NDArray[np.uint8]:
    """The still background of a part of the clip, without what the masks say moves."""
    pixels = inputs.read("pixels")
    assert pixels is not None
    masks = [mask for name in ("masks/object", "masks/robot") if (mask := inputs.read(name)) is not None]
    return still_background(pixels[part], np.logical_or.reduce(masks)[part] if masks else None)


def thinned(clip: TrackedClip, *, of_robot: bool) -> TrackedClip:
    """The clip with at most `MOST_FRAMES` frames, and about `MOST_ON_ROBOT` places of tracks that are `of_robot`."""
    n_frames, most = len(clip.timestamp), MOST_FRAMES
    if of_robot:
        most = min(most, int(n_frames * MOST_ON_ROBOT / max(clip.visibility.sum(), 1)))
    if n_frames <= most:
        return clip
    kept = np.unique(np.linspace(0, n_frames - 1, max(most, 2)).round().astype(int))
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
    camera = found.report["camera"]
    about: dict[str, Any] = {name: camera[name] for name in ("position_sigma_m", "rotation_sigma_deg", "delay_s")}
    carrier_from_camera = np.asarray(camera["carrier_from_camera"])
    if found.rig == "fixed":
        return {"extrinsics": encode("extrinsics", carrier_from_camera, **about)}
    datasets = {
        "hand_from_camera": encode("hand_from_camera", carrier_from_camera, **about),
        "camera_pose": encode("camera_pose", hand.pose.astype(np.float64) @ carrier_from_camera),
        "camera_pose_valid": encode("camera_pose_valid", hand.valid),
    }
    if found.scene is not None and len(found.scene[0]):
        datasets["scene_points"] = encode("scene_points", found.scene[0])
        datasets["scene_points_sigma"] = encode("scene_points_sigma", found.scene[1])
    return datasets


CALIBRATION = Stage(
    name="calibration", version=7, inputs=("source", "masks/*", "tracks/*"), settings=_settings, run=_run
)
"""Report: `hand` (names, units, convention, or the reason for none), `camera` (its numbers, also where it is refused),
`reasons` (why no camera is stored), `tags`, `robot_tracks` (how many, and whether they were matched again)."""
