"""What a calibrated camera adds: the held object's points and poses, its place in the base frame, depth in metres.

A camera on the wrist adds depth alone: its frames are brought onto one scale by points of the still scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError
from extractors.handeye.align import Alignment, FrameAlignment, align_depth, align_frames
from extractors.handeye.held import HeldObject, held_object
from extractors.handeye.known import KnownCamera, Riders, riders_of
from extractors.handeye.problem import WRIST_PRIORS, Priors, Rig, TrackedClip
from extractors.handeye.sight import seen_again
from extractors.matching import body_alone
from flows.config import Config
from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.calibration import LOOKS, known_camera, tracked_clip, wrist_camera
from flows.stages.camera import packet_camera
from packers.schema import Dataset
from packers.writer import encode

MOST_DEPTH_SIGMA = 0.15
"""Relative deviation beyond which aligned depth is worse than a guess: hands are seen at 0.5 to 1.3 m."""

DEPTH_FRAMES = 40
"""Frames whose tracks align the depth map; more say the same."""

Floats = NDArray[np.float64]


def _settings(config: Config) -> Mapping[str, Any]:
    return {}


def _run(inputs: StageInputs) -> StageOutput:
    camera, on_wrist = known_camera(inputs), wrist_camera(inputs)
    hand_pose = inputs.read("hand_pose")
    datasets: dict[str, Dataset] = {}
    report: dict[str, Any] = {}
    if camera is not None:
        assert hand_pose is not None
        held = _add_object(inputs, camera, hand_pose.astype(np.float64), datasets, report)
        _add_centroids(inputs, camera, held, datasets, report)
        _add_depth(inputs, camera, hand_pose.astype(np.float64), datasets, report, rig="fixed")
    elif on_wrist is not None:
        assert hand_pose is not None
        _add_depth(inputs, on_wrist, hand_pose.astype(np.float64), datasets, report, rig="wrist")
    else:
        report["reason"] = "no camera is calibrated"
    return StageOutput(datasets, report)


def _add_object(
    inputs: StageInputs,
    camera: KnownCamera,
    hand_pose: Floats,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> HeldObject | None:
    clip, held = tracked_clip(inputs, hand_pose, of_object=True), inputs.read("held")
    if clip is None or held is None or not clip.visibility.shape[1]:
        report["object"] = {
            "reasons": ["not observable, because the object has no tracks, or nobody knows when it is held"]
        }
        return None
    pixels, masks = inputs.read("pixels"), inputs.read("masks/object")
    try:
        found = (
            held_object(clip, held, camera)
            if pixels is None or masks is None
            else matched_again(clip, held, camera, pixels, masks)[0]
        )
    except GeometryError as error:
        report["object"] = {"reasons": [f"not observable, because {error}"]}
        return None
    if found.reasons:
        report["object"] = {"reasons": [f"not observable, because {reason}" for reason in found.reasons]}
        return None
    rides = np.isfinite(found.points).all(axis=1)
    valid = found.pose_valid & np.isfinite(found.pose_sigma).all(axis=1)
    report["object"] = {**found.report, "residual_px": found.residual * inputs.size[1], "reasons": []}
    datasets |= {
        "object_points": encode("object_points", found.points[rides]),
        "object_points_sigma": encode("object_points_sigma", found.points_sigma[rides]),
        "object_pose": encode("object_pose", np.where(valid[:, None, None], found.pose, np.nan)),
        "object_pose_valid": encode("object_pose_valid", valid),
        "object_pose_sigma": encode("object_pose_sigma", np.where(valid[:, None], found.pose_sigma, np.nan)),
    }
    return found


def matched_again(
    clip: TrackedClip,
    held: NDArray[np.bool_],
    camera: KnownCamera,
    pixels: NDArray[np.uint8],
    masks: NDArray[np.bool_],
) -> tuple[HeldObject, TrackedClip]:
    """The object, by its tracks matched again where its pose so far says that they are; and the clip with these.

    Where that fails they are as they were before.

    Args:
        clip: the object's tracks.
        held: (T,) bool.
        camera: the fixed camera.
        pixels: (T, H, W, 3) RGB.
        masks: (T, H, W) of the object.
    """
    found, alone = held_object(clip, held, camera), None
    for _ in range(LOOKS):
        if found.reasons:
            break
        alone = body_alone(pixels, masks) if alone is None else alone
        matched = object_seen_again(clip, found, camera, alone)
        again = held_object(matched, held, camera)
        if again.reasons:
            break
        found, clip = again, matched
    return found, clip


def object_seen_again(
    clip: TrackedClip, found: HeldObject, camera: KnownCamera, alone: NDArray[np.uint8]
) -> TrackedClip:
    """The clip with the object's tracks matched again, each with the picture in the middle of those it was held in.

    Args:
        clip: the object's tracks.
        found: its points, and its pose where it is known.
        camera: the fixed camera.
        alone: (T, H, W, 3) the object before its own colours (see `body_alone`).
    """
    frames = np.flatnonzero(found.pose_valid)
    visible = clip.visibility[frames]
    held = visible & found.trusted[frames, None]
    rides = np.asarray(np.isfinite(found.points).all(axis=1) & held.any(axis=0))
    middle = (held.cumsum(axis=0) >= (held.sum(axis=0) + 1) // 2).argmax(axis=0)
    # Its pose is at the time of the pictures already.
    moving = replace(
        clip,
        xy=clip.xy[frames],
        visibility=visible,
        hand_pose=found.pose[frames],
        timestamp=clip.timestamp[frames],
    )
    points = np.where(rides[:, None], found.points, np.nan)
    fixed = KnownCamera(camera.focal_px, camera.base_from_camera)
    moving, _ = seen_again(alone[frames], moving, fixed, points, rides, middle)
    xy, visibility = np.array(clip.xy, np.float32), clip.visibility.copy()
    xy[frames], visibility[frames] = moving.xy, moving.visibility
    return replace(clip, xy=xy, visibility=visibility)


def _add_centroids(
    inputs: StageInputs,
    camera: KnownCamera,
    held: HeldObject | None,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> None:
    """The object's place in the base frame: of its measured depth where there is some, else of its pose and mask."""
    if inputs.has("centroids") and inputs.dataset("centroids").attributes.get("units") == "m":
        places, valid, sigma = _moved_centroids(inputs, camera)
        made_from = "depth/metric"
    elif held is not None:
        valid = datasets["object_pose_valid"].data
        places = _middles(inputs, camera, held.pose[:, :3, 3])
        each = datasets["object_pose_sigma"].data[:, :1] / np.sqrt(3)
        sigma, made_from = np.repeat(each, 3, axis=1), "object_pose"
    else:
        report["centroids_base"] = {"reasons": ["neither measured depth nor the object's pose says where it is"]}
        return
    datasets |= {
        "centroids_base": encode("centroids_base", places, made_from=made_from),
        "centroids_base_valid": encode("centroids_base_valid", valid),
        "centroids_base_sigma": encode("centroids_base_sigma", sigma),
    }


def _middles(inputs: StageInputs, camera: KnownCamera, places: Floats) -> Floats:
    """(T, 3) the middle of the object's mask at the depth of `places`, as `centroids` are; those where it has no mask.

    The origin of an object's frame lies among the points that were followed, which are seldom spread evenly over it.
    """
    masks = inputs.read("masks/object")
    if masks is None:
        return places
    height, width = inputs.size
    count = masks.sum(axis=(1, 2))
    x, y = masks.sum(axis=1) @ np.arange(width), masks.sum(axis=2) @ np.arange(height)
    middle = np.stack([x, y], axis=1) / np.maximum(count, 1)[:, None] - ((width - 1) / 2, (height - 1) / 2)
    intrinsics = packet_camera(inputs)
    rays = np.ones_like(places)
    rays[:, :2] = middle / (camera.focal_px, camera.focal_px * intrinsics.fy / intrinsics.fx)
    turn, at = camera.base_from_camera[:3, :3], camera.base_from_camera[:3, 3]
    return np.where((count > 0)[:, None], camera.depth_m(places)[:, None] * rays @ turn.T + at, places)


def _moved_centroids(inputs: StageInputs, camera: KnownCamera) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """`centroids` in the base frame with the camera's own uncertainty: its place, and its turn times the distance."""
    centroids, valid, sigma = (inputs.read(f"centroids{part}") for part in ("", "_valid", "_sigma"))
    assert centroids is not None
    assert valid is not None
    assert sigma is not None
    attributes = inputs.dataset("extrinsics").attributes
    turn = camera.base_from_camera[:3, :3]
    places = centroids @ turn.T + camera.base_from_camera[:3, 3]
    lever = np.linalg.norm(centroids, axis=1) * np.radians(float(attributes["rotation_sigma_deg"]))
    own = np.hypot(lever, float(attributes["position_sigma_m"])) / np.sqrt(3)
    spread = np.sqrt(np.square(sigma) @ np.square(turn).T + np.square(own)[:, None])
    return places, valid, spread


def _add_depth(
    inputs: StageInputs,
    camera: KnownCamera,
    hand_pose: Floats,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
    *,
    rig: Rig,
) -> None:
    """The relative map in metres, by tracks whose points are known: the hand's, or the still scene's from the wrist.

    A wrist camera's map is first brought onto one scale over the clip.
    """
    wrist = rig == "wrist"
    name = "depth/stabilized" if inputs.has("depth/stabilized") else "depth/relative"
    if wrist and name == "depth/stabilized":
        report["depth"] = {"reasons": ["the camera stood still, and the background has anchored the map"]}
        return
    relative, clip = inputs.read(name), tracked_clip(inputs, hand_pose)
    if relative is None or clip is None:
        report["depth"] = {"reasons": ["no relative depth, or no tracks"]}
        return
    try:
        points = (_known_scene if wrist else known_depths)(clip, camera, relative)
        depths = points.value, points.depth_m, points.sigma_m
        frames = align_frames(*depths, points.frame, len(relative)) if wrist else None
        fit = align_depth(*depths) if frames is None else frames.whole
    except GeometryError as error:
        report["depth"] = {"reasons": [f"not observable, because {error}"]}
        return
    if frames is not None:
        name, relative = "depth/stabilized", _stabilized(relative, frames)
        datasets[name] = encode(name, relative, convention="depth/relative with points of the still scene anchored")
        datasets["depth/stabilizer"] = encode("depth/stabilizer", frames.stabilizer.astype(np.float32))
    _add_aligned(inputs, fit, relative, points, name, datasets, report)
    if frames is not None:
        report["depth"]["frames_between"] = int((~frames.measured).sum())


def _stabilized(relative: NDArray[Any], found: FrameAlignment) -> NDArray[np.float32]:
    # As the packet's stabilizer, in single precision, says it.
    scale, shift = found.stabilizer.astype(np.float32).T[:, :, None, None]
    return np.asarray(scale * np.asarray(relative, np.float32) + shift, np.float32)


def _add_aligned(
    inputs: StageInputs,
    fit: Alignment,
    relative: NDArray[Any],
    points: KnownDepths,
    name: str,
    datasets: dict[str, Dataset],
    report: dict[str, Any],
) -> None:
    """`depth/aligned` of the map `name`, unless metres would be a guess."""
    sigma = _predicted(inputs, fit, relative, points.depth_m)
    report["depth"] = {
        "points": fit.n_points,
        "inliers": fit.inliers,
        "residual": fit.residual,
        "sigma": sigma,
        "reasons": [],
    }
    if not (fit.scale > 0 and sigma <= MOST_DEPTH_SIGMA):
        wrong = "larger values would be farther" if fit.scale <= 0 else f"metres would be off by {sigma:.0%}"
        report["depth"]["reasons"] = [f"not observable, because {wrong}"]
        return
    metres = fit.metres(relative)
    datasets["depth/aligned"] = encode(
        "depth/aligned", metres, fit_scale=fit.scale, fit_shift=fit.shift, sigma=sigma, made_from=name
    )
    measured = inputs.read("depth/metric")
    if measured is not None:
        both = (metres > 0) & (np.nan_to_num(measured) > 0)
        if both.any():
            report["depth"]["of_recorded"] = float(np.mean(np.abs(metres[both] / measured[both] - 1)))


@dataclass(frozen=True, slots=True, eq=False)
class KnownDepths:
    """Observations (P,) of points whose depth is known.

    Attributes:
        value: of the relative map.
        depth_m, sigma_m: metres along z of the camera, and one standard deviation.
        frame: number of each one's frame.
    """

    value: NDArray[Any]
    depth_m: Floats
    sigma_m: Floats
    frame: NDArray[np.int64]


def known_depths(clip: TrackedClip, camera: KnownCamera, relative: NDArray[Any]) -> KnownDepths:
    """At the tracks that ride on the hand, of a camera that stands still."""
    riders = riders_of(clip, camera, priors=Priors())
    frames = np.unique(np.linspace(0, len(clip.timestamp) - 1, DEPTH_FRAMES).round().astype(int))
    shown = np.zeros(len(clip.timestamp), np.bool_)
    shown[frames] = True
    camera_pose = np.broadcast_to(camera.base_from_camera, clip.hand_pose.shape)
    return _looked_up(clip, riders, relative, shown, point_pose=clip.hand_pose, camera_pose=camera_pose)


def _known_scene(clip: TrackedClip, camera: KnownCamera, relative: NDArray[Any]) -> KnownDepths:
    """At the tracks of the still scene, of a camera on the wrist."""
    riders = riders_of(clip, camera, rig="wrist", priors=WRIST_PRIORS)
    still = np.broadcast_to(np.eye(4), clip.hand_pose.shape)
    camera_pose = clip.hand_pose @ camera.base_from_camera
    everywhere = np.ones(len(clip.timestamp), np.bool_)
    return _looked_up(clip, riders, relative, everywhere, point_pose=still, camera_pose=camera_pose)


def _looked_up(
    clip: TrackedClip,
    riders: Riders,
    relative: NDArray[Any],
    shown: NDArray[np.bool_],
    *,
    point_pose: Floats,
    camera_pose: Floats,
) -> KnownDepths:
    """Depths of the riders in the frames `shown`; the two poses (T, 4, 4) map to the base frame."""
    if riders.reasons:
        raise GeometryError(riders.reasons[0])
    recorded = np.isfinite(clip.hand_pose).all(axis=(1, 2)) & shown
    frame, track = np.nonzero(clip.visibility & riders.riding & recorded[:, None])
    pose, view = point_pose[frame], camera_pose[frame]
    places = np.einsum("fij,fj->fi", pose[:, :3, :3], riders.points[track]) + pose[:, :3, 3]
    z = np.einsum("fi,fi->f", places - view[:, :3, 3], view[:, :3, 2])
    at = np.rint(clip.xy[frame, track]).astype(int)
    inside = (at >= 0).all(axis=1) & (at < clip.size[::-1]).all(axis=1)
    x, y = at[inside].T
    spread = np.linalg.norm(riders.points_sigma[track[inside]], axis=1) / np.sqrt(3)
    return KnownDepths(_sampled(relative, frame[inside], y, x), z[inside], spread, frame[inside])


def _sampled(
    relative: NDArray[Any], frame: NDArray[np.int64], y: NDArray[np.int_], x: NDArray[np.int_]
) -> NDArray[np.float32]:
    """(P,) the map at points, each the median of nine pixels: a map's grain would flatten its slope."""
    values = np.empty(len(frame), np.float32)
    for number in np.unique(frame):
        of = frame == number
        values[of] = cv2.medianBlur(np.asarray(relative[number], np.float32), 3)[y[of], x[of]]
    return values


def _predicted(inputs: StageInputs, fit: Alignment, relative: NDArray[Any], depth_m: Floats) -> float:
    """Median relative deviation of the aligned map: the fit's, and what is not known of the camera behind it."""
    sampled = relative[:: max(1, len(relative) // 8), ::8, ::8]
    camera = inputs.results["calibration"].record.report["camera"]
    # A focal length that is off by a share puts the hand off by that share, and with it the whole map.
    scale = np.hypot(camera["focal_sigma"], camera["position_sigma_m"] / max(float(np.median(depth_m)), 0.1))
    return float(np.hypot(np.median(fit.sigma(sampled)), scale))


PLACING = Stage(
    name="placing",
    version=9,
    inputs=("source", "masks/*", "depth/*", "tracks/*", "calibration", "held", "centroids*"),
    settings=_settings,
    run=_run,
)
"""Report: `object`, `centroids_base`, `depth`, each with the `reasons` why it is missing."""
