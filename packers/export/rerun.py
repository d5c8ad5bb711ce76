"""A packet as a Rerun recording (.rrd): frames, masks, depth, tracks, points and curves on one timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import ConfigError, OutputError
from extractors.types import DESCRIPTOR_NAMES
from packers.atomic import built_aside
from packers.reader import Packet
from packers.schema import TRACK_SETS
from packers.viewer.episode import OBJECT_TRACKS, object_points
from packers.viewer.frames import RING_RGB, ROBOT_RGB, FramePictures, encode_image, thing_rgb
from packers.viewer.hand import OBJECT_RGB

_OBJECT_ID, _ROBOT_ID = 1, 2
_OFF_RGB, _GRID_RGB = (86, 180, 233), (235, 235, 235)


def require_rerun() -> Any:
    """The rerun module.

    Raises:
        ConfigError: rerun-sdk is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(
            "rerun-sdk is not installed; install it with `pip install rerun-sdk`, or cuepack with its extra `rerun`"
        ) from error
    return rerun


def write_rerun(path: Path, target: Path) -> None:
    """Writes the packet `path` as the recording `target`; the timelines are `frame` and `time` (seconds).

    Entities: `camera` (pinhole; `rgb`, `masks`, `depth/...`, `tracks/...` on it), `object` (points, centroid, path),
    `base` (the robot's frame: hand, camera, held object), `curves/...`, `about`.

    Raises:
        ConfigError: rerun-sdk is not installed.
        PacketError: the packet is damaged.
        OutputError: the file cannot be written.
    """
    rr = require_rerun()
    with Packet(path) as packet:
        episode_id = str(packet.attributes.get("episode_id", path.stem))
        recording = rr.RecordingStream("cuepack", recording_id=episode_id)
        try:
            with built_aside(target) as temporary:
                recording.save(temporary)
                _log_constant(rr, recording, packet)
                pictures = FramePictures(packet)
                timestamp = packet.read("timestamp")
                for t in range(packet.n_frames):
                    recording.set_time("frame", sequence=t)
                    recording.set_time("time", duration=float(timestamp[t]))
                    _log_frame(rr, recording, packet, pictures, t)
                recording.flush()
                recording.disconnect()
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error


def _log_constant(rr: Any, recording: Any, packet: Packet) -> None:
    height, width = packet.size
    attributes = packet.attributes
    recording.log("/", rr.ViewCoordinates.RDF, static=True)
    pinhole = rr.Pinhole(image_from_camera=packet.read("intrinsics"), resolution=[width, height])
    recording.log("camera", pinhole, static=True)
    classes = [(_OBJECT_ID, "object", OBJECT_RGB), (_ROBOT_ID, "robot", ROBOT_RGB)]
    if "masks/things" in packet:
        names = packet.dataset_attributes("masks/things")["names"]
        classes += [(_ROBOT_ID + k, name or f"thing {k}", thing_rgb(k)) for k, name in enumerate(names) if k]
    recording.log("camera/masks", rr.AnnotationContext(classes), static=True)
    recording.log("about", rr.TextDocument(_about(attributes), media_type="text/markdown"), static=True)
    _log_base_constant(rr, recording, packet)
    if "centroids" in packet:
        path = packet.read("centroids")[packet.read("centroids_valid")]
        if len(path) > 1:
            recording.log("object/path", rr.LineStrips3D([path], colors=[RING_RGB[0]]), static=True)


def _log_base_constant(rr: Any, recording: Any, packet: Packet) -> None:
    height, width = packet.size
    if "hand_pose" in packet:
        path = packet.read("hand_pose")[packet.read("hand_pose_valid"), :3, 3]
        if len(path) > 1:
            recording.log("base/hand_path", rr.LineStrips3D([path], colors=[RING_RGB[2]]), static=True)
    if "extrinsics" in packet:
        pose = packet.read("extrinsics")
        recording.log("base/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]), static=True)
    if "extrinsics" in packet or "camera_pose" in packet:
        pinhole = rr.Pinhole(image_from_camera=packet.read("intrinsics"), resolution=[width, height])
        recording.log("base/camera", pinhole, static=True)
    for entity, name in (("base/object/points", "object_points"), ("base/scene", "scene_points")):
        if name in packet:
            recording.log(entity, rr.Points3D(packet.read(name), colors=[OBJECT_RGB]), static=True)


def _about(attributes: dict[str, Any]) -> str:
    """Scores and quality as a Markdown list; the instruction is set as code, so that nothing in it is markup."""
    instruction = " ".join(str(attributes.get("language_instruction", "")).replace("`", "'").split())
    lines = [f"`{instruction or '(no instruction)'}`", ""]
    lines += [f"- {name}: {value}" for name, value in (attributes.get("scores") or {}).items()]
    for modality, card in (attributes.get("quality") or {}).items():
        lines.append(f"- {modality}: {card.get('status')} {'; '.join(map(str, card.get('reasons') or []))}")
    return "\n".join(lines)


def _log_frame(rr: Any, recording: Any, packet: Packet, pictures: FramePictures, t: int) -> None:
    pixels = packet.read("pixels", t, t + 1)[0]
    recording.log("camera/rgb", rr.EncodedImage(contents=encode_image(pixels), media_type="image/jpeg"))
    if "masks/object" in packet:
        labels = packet.read("masks/object", t, t + 1)[0].astype(np.uint8) * _OBJECT_ID
        if "masks/robot" in packet:
            labels[packet.read("masks/robot", t, t + 1)[0] & (labels == 0)] = _ROBOT_ID
        if "masks/things" in packet:
            things = packet.read("masks/things", t, t + 1)[0]
            free = (things > 0) & (labels == 0)
            labels[free] = np.minimum(things[free], 255 - _ROBOT_ID) + _ROBOT_ID
        recording.log("camera/masks", rr.SegmentationImage(labels))
    for name in ("metric", "aligned", "relative", "stabilized"):
        if f"depth/{name}" in packet:
            depth = np.nan_to_num(packet.read(f"depth/{name}", t, t + 1)[0])
            # Relative inverse depth has no metres: an image to look at, not points in space.
            in_metres = name in ("metric", "aligned")
            meter = {"meter": 1.0} if in_metres else {}
            recording.log(f"{'camera/' if in_metres else ''}depth/{name}", rr.DepthImage(depth, **meter))
    _log_tracks(rr, recording, packet, t)
    _log_base(rr, recording, packet, t)
    _log_object(rr, recording, packet, pictures, t)
    _log_curves(rr, recording, packet, t)


def _log_tracks(rr: Any, recording: Any, packet: Packet, t: int) -> None:
    for name in TRACK_SETS:
        root = f"tracks/{name}"
        if f"{root}/xy" not in packet:
            continue
        visible = packet.read(f"{root}/visibility", t, t + 1)[0]
        xy, on_object = packet.read(f"{root}/xy", t, t + 1)[0], packet.read(f"{root}/on_object")
        off = _OFF_RGB if name == "foreground" else _GRID_RGB
        colours = np.where(on_object[:, None], OBJECT_RGB, off).astype(np.uint8)
        # Rerun puts the corner of the top-left pixel at (0, 0), packets its centre.
        points = rr.Points2D(xy[visible] + 0.5, colors=colours[visible], radii=1.0)
        recording.log(f"camera/{root}", points)


def _log_base(rr: Any, recording: Any, packet: Packet, t: int) -> None:
    """The robot's base frame under `base`, beside the camera's: camera, hand, held object and where it is, metres."""
    for entity, name in (("base/hand", "hand_pose"), ("base/camera", "camera_pose"), ("base/object", "object_pose")):
        pose = packet.read(name, t, t + 1)[0] if name in packet else np.full((4, 4), np.nan)
        if np.isfinite(pose).all():
            recording.log(entity, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    if "centroids_base" in packet:
        place = packet.read("centroids_base", t, t + 1)
        valid = np.isfinite(place).all(axis=1)
        recording.log("base/centroid", rr.Points3D(place[valid], colors=[RING_RGB[0]], radii=-6.0))


def _log_object(rr: Any, recording: Any, packet: Packet, pictures: FramePictures, t: int) -> None:
    if pictures.object_depth is not None and "masks/object" in packet:
        xyz, rgb = object_points(packet, pictures.object_depth, t, t + 1)[0]
        recording.log("object/points", rr.Points3D(xyz, colors=rgb))
    if "centroids" in packet:
        centroid = packet.read("centroids", t, t + 1)
        valid = np.isfinite(centroid).all(axis=1)
        recording.log("object/centroid", rr.Points3D(centroid[valid], colors=[RING_RGB[0]], radii=-6.0))


def _log_curves(rr: Any, recording: Any, packet: Packet, t: int) -> None:
    values: dict[str, float] = {}
    for name in ("gripper", "contact"):
        if name in packet:
            values[name] = float(packet.read(name, t, t + 1)[0])
    if "masks/object" in packet:
        values["coverage"] = float(packet.read("masks/object", t, t + 1).mean())
    if "centroids" in packet:
        centroid = packet.read("centroids", t, t + 1)[0]
        values |= {f"centroid/{axis}": float(v) for axis, v in zip("xyz", centroid, strict=True)}
    if "shape_descriptors" in packet:
        shape = packet.read("shape_descriptors", t, t + 1)[0]
        values |= {
            f"shape/{name.replace('/', '_per_').replace(' ', '_')}": float(v)
            for name, v in zip(DESCRIPTOR_NAMES, shape, strict=True)
        }
    for name in OBJECT_TRACKS:
        if f"tracks/{name}/xy" in packet:
            visible = packet.read(f"tracks/{name}/visibility", t, t + 1)[0]
            values[f"visible/{name}"] = float((visible & packet.read(f"tracks/{name}/on_object")).sum())
    for name, value in values.items():
        if np.isfinite(value):
            recording.log(f"curves/{name}", rr.Scalars(value))
