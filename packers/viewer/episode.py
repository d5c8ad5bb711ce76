"""An episode as its page needs it: facts, curves, tracks and 3-D points, in JSON types."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from extractors.phases import phase_ends
from extractors.types import DESCRIPTOR_NAMES, Camera
from packers.inspect import describe_packet
from packers.reader import Packet
from packers.schema import TRACK_SETS
from packers.viewer.frames import (
    SHEET_COLUMNS,
    SHEET_FRAMES,
    FramePictures,
    depth_colours,
    panel_legend,
)

POINTS_FRAMES = 32
"""Frames per file of tracks and object points."""

CLOUD_POINTS, SCENE_POINTS = 500, 3000
"""Points shown of the object in each frame, and of the scene around it, at most."""

XY_STEP_PX = 1 / 16
"""Tracks are sent as int16 counts of this; they are finite and stay within a few frame widths."""

OBJECT_TRACKS = ("foreground", "grid")
"""Track sets whose points may lie on the object."""

METRES = ("depth/metric", "depth/aligned")
"""Depth in metres, the better one first."""

HELD_POINTS = 60
"""Points of the held object that are shown, at most."""

Series = dict[str, Any]


def describe_episode(path: Path | str) -> dict[str, Any]:
    """All that the episode page shows at once; pictures, tracks and points come in their own files.

    What cannot be read for damage is left out and named in `faults`; the rest is there.

    Raises:
        PacketError: the file is not a packet, or is too damaged to be opened.
    """
    path = Path(path)
    description = describe_packet(path)
    attributes = description["attributes"]
    faults = [] if description["intact"] else ["the packet's bytes differ from the sha256 it states: it is damaged"]
    with Packet(path) as packet:
        pictures = FramePictures(packet)
        height, width = packet.size
        return {
            "episode_id": str(attributes.get("episode_id", path.stem)),
            "language_instruction": str(attributes.get("language_instruction", "")),
            "fps": attributes.get("fps"),
            "n_frames": packet.n_frames,
            "size": [height, width],
            "bytes": description["bytes"],
            "sha256": description["sha256"],
            "view": {
                "size": list(pictures.size),
                "stride": list(pictures.stride),
                "columns": SHEET_COLUMNS,
                "sheet_frames": SHEET_FRAMES,
                "points_frames": POINTS_FRAMES,
                "xy_step": XY_STEP_PX,
            },
            "panels": list(pictures.panels),
            "legend": panel_legend(pictures),
            "depth_colours": _base64(depth_colours()),
            "tracks": _track_sets(packet, faults),
            "timestamp": _rounded(packet.read("timestamp"), 3),
            "series": _all_series(packet, faults),
            "space": _space(packet, pictures, faults),
            "attributes": {name: attributes.get(name) for name in ("scores", "quality", "tags", "source", "config")},
            "stages": _stages(attributes.get("stages")),
            "datasets": [
                {"name": name, "dtype": d["dtype"], "shape": d["shape"], "stored_bytes": d["stored_bytes"]}
                for name, d in description["datasets"].items()
            ],
            # Last: the entries above add to it.
            "faults": faults,
        }


def describe_points(path: Path | str, index: int) -> dict[str, Any]:
    """Tracks and object points of the frames 32 * `index` to 32 * `index` + 31.

    Returns:
        `start`; `tracks`: set -> `xy` (base64 int16 [n, N, 2], counts of 1/16 px) and `visible` (base64 bits [n, N],
        most significant first, each frame padded to bytes); `cloud`: one entry a frame, base64 float32 [P, 3] in the
        camera frame, and `colours`, base64 uint8 [P, 3]. What is damaged is left out.

    Raises:
        IndexError: there are no such frames.
        PacketError: the packet cannot be opened.
    """
    with Packet(path) as packet:
        start, stop = index * POINTS_FRAMES, min((index + 1) * POINTS_FRAMES, packet.n_frames)
        if not 0 <= start < stop:
            raise IndexError(f"{packet.path.name}: wanted frames from {start} on, it has {packet.n_frames}")
        tracks: dict[str, Any] = {}
        for name in TRACK_SETS:
            if f"tracks/{name}/xy" in packet:
                try:
                    xy = packet.read(f"tracks/{name}/xy", start, stop)
                    visible = packet.read(f"tracks/{name}/visibility", start, stop)
                except PacketError:
                    continue
                counts = np.clip(np.rint(xy / XY_STEP_PX), -32768, 32767).astype("<i2")
                tracks[name] = {"xy": _base64(counts), "visible": _base64(np.packbits(visible, axis=1))}
        return {"start": start, "tracks": tracks, **_clouds(packet, start, stop)}


def depth_of(packet: Packet, dataset: str) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """What turns values of a depth dataset into z: nothing for metres, the clip's own mapping for relative ones.

    The mapping is the one that the packet's centroids were made with (recorded by the geometry stage), so that points
    and centroids share one space; without centroids it is made from the clip in the same way.
    """
    if dataset in METRES:
        return lambda values: np.nan_to_num(np.asarray(values, np.float64))
    from extractors.centroids import InverseDepthMap, relative_mapping

    stages = packet.attributes.get("stages") or {}
    try:
        report = ((stages.get("geometry") or {}).get("report") or {}).get("centroids") or {}
        recorded = report.get("inverse_depth")
        mapping = None if recorded is None else InverseDepthMap(float(recorded["scale"]), float(recorded["shift"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The schema does not fix what a stage reports, so any shape of it may come.
        raise PacketError(f"{packet.path}: stages: geometry: the report's inverse_depth is not a mapping") from error
    if mapping is None:
        sampled = np.unique(np.linspace(0, packet.n_frames - 1, 24).round().astype(int))
        mapping = relative_mapping(np.concatenate([packet.read(dataset, int(t), int(t) + 1) for t in sampled]))
    return lambda values: mapping.depth(values).astype(np.float64)


def object_points(
    packet: Packet, dataset: str, start: int, stop: int
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Points (P, 3) of the object in the camera frame and their RGB (P, 3), a pair for each frame; P is at most 500."""
    to_z, camera = depth_of(packet, dataset), packet_camera(packet)
    depth, masks = packet.read(dataset, start, stop), packet.read("masks/object", start, stop)
    pixels = packet.read("pixels", start, stop)
    found = []
    for values, mask, frame in zip(depth, masks, pixels, strict=True):
        y, x = np.nonzero(mask)
        found.append(_points(y, x, to_z(values), frame, camera, CLOUD_POINTS))
    return found


def packet_camera(packet: Packet) -> Camera:
    """The packet's intrinsics as a camera of its frame size."""
    matrix = packet.read("intrinsics").astype(float)
    height, width = packet.size
    return Camera(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], width=width, height=height)


def _points(
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    z_map: NDArray[np.float64],
    frame: NDArray[np.uint8],
    camera: Camera,
    most: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    from extractors.geometry import unproject_points

    valid = np.isfinite(z_map[y, x]) & (z_map[y, x] > 0)
    y, x = y[valid], x[valid]
    if len(y) > most:
        # Evenly over the pixels in a fixed shuffled order: rows of a regular step would show as stripes.
        chosen = np.random.default_rng(0).permutation(len(y))[:most]
        y, x = y[chosen], x[chosen]
    points = unproject_points(np.stack([x, y], axis=-1), z_map[y, x], camera)
    return points.astype(np.float32), frame[y, x]


def _clouds(packet: Packet, start: int, stop: int) -> dict[str, Any]:
    dataset = _space_depth(packet, FramePictures(packet))
    if dataset is None or "masks/object" not in packet:
        return {"cloud": [], "colours": []}
    try:
        clouds = object_points(packet, dataset, start, stop)
    except PacketError:
        return {"cloud": [], "colours": []}
    return {"cloud": [_base64(xyz) for xyz, _ in clouds], "colours": [_base64(rgb) for _, rgb in clouds]}


def _space(packet: Packet, pictures: FramePictures, faults: list[str]) -> dict[str, Any] | None:
    """What the 3-D view shows besides the object's points: the first frame's scene and the centroids' path."""
    dataset = _space_depth(packet, pictures)
    if "extrinsics" in packet:
        found: dict[str, Any] | None = _tried(lambda: _hand_space(packet), faults, "3-D hand")
        if dataset is None or found is None:
            return found
    elif dataset is None:
        return None
    else:
        found = {}

    def read() -> dict[str, Any]:
        values, frame = packet.read(dataset, 0, 1)[0], packet.read("pixels", 0, 1)[0]
        mask = packet.read("masks/object", 0, 1)[0] if "masks/object" in packet else np.zeros(values.shape, bool)
        y, x = np.nonzero(~mask)
        xyz, rgb = _points(y, x, depth_of(packet, dataset)(values), frame, packet_camera(packet), SCENE_POINTS)
        units = "m" if dataset in METRES else "relative"
        return {"dataset": dataset, "units": units, "scene": _base64(xyz), "scene_colours": _base64(rgb)}

    space: dict[str, Any] | None = _tried(read, faults, "3-D points")
    if space is None:
        return None
    if found:
        return {**found, **space, "path": found["path"]}
    if "centroids" in packet:
        space["path"] = _tried(lambda: _rounded(packet.read("centroids"), 5), faults, "centroids")
    return space


def _space_depth(packet: Packet, pictures: FramePictures) -> str | None:
    """The depth that the 3-D view shows: in metres wherever the camera's pose is known, as the hand's path is."""
    metric = next((name for name in METRES if name in packet), None)
    return metric if metric is not None or "extrinsics" in packet else pictures.object_depth


def _hand_space(packet: Packet) -> dict[str, Any]:
    """The hand's path, and the held object's points and path, in the frame of a camera that stands still, metres."""
    base_from_camera = packet.read("extrinsics").astype(np.float64)
    turn, place = base_from_camera[:3, :3], base_from_camera[:3, 3]
    hand = (packet.read("hand_pose")[:, :3, 3] - place) @ turn
    space: dict[str, Any] = {
        "dataset": "hand and object",
        "units": "m",
        "scene": "",
        "scene_colours": "",
        "hand": _rounded(hand, 4),
    }
    path: list[Any] = []
    if "object_pose" in packet:
        pose, points = packet.read("object_pose").astype(np.float64), packet.read("object_points").astype(np.float64)
        points = points[:: -(-len(points) // HELD_POINTS)]
        in_base = np.einsum("tij,pj->tpi", pose[:, :3, :3], points) + pose[:, None, :3, 3]
        space["held"] = _base64(((in_base - place) @ turn).astype("<f4"))
        space["held_points"] = len(points)
        path = _rounded((pose[:, :3, 3] - place) @ turn, 4)
    return {**space, "path": path}


def _track_sets(packet: Packet, faults: list[str]) -> dict[str, Any]:
    found = {}
    for name in TRACK_SETS:
        root = f"tracks/{name}"
        if f"{root}/xy" not in packet:
            continue

        def read(root: str = root) -> dict[str, Any]:
            queries, on_object = packet.read(f"{root}/queries"), packet.read(f"{root}/on_object")
            return {
                "n": len(queries),
                "on_object": on_object.astype(int).tolist(),
                "from_frame": queries[:, 0].astype(int).tolist(),
            }

        track_set = _tried(read, faults, root)
        if track_set is not None:
            found[name] = track_set
    return found


def _all_series(packet: Packet, faults: list[str]) -> list[Series]:
    makers: tuple[tuple[str, Callable[[Packet], Series | None]], ...] = (
        ("motion and phase", _motion_series),
        ("gripper and contact", _gripper_series),
        ("centroid", _centroid_series),
        ("coverage", _coverage_series),
        ("tracks on the object", _tracks_series),
        ("shape descriptors", _shape_series),
    )
    found = []
    for title, make in makers:
        series = _tried(lambda make=make: make(packet), faults, title)  # type: ignore[misc]
        if series is not None:
            found.append({"title": title, **series})
    return found


def _gripper_series(packet: Packet) -> Series | None:
    lines = [_line(name, packet.read(name), 4) for name in ("gripper", "contact") if name in packet]
    if not lines:
        return None
    series: Series = {"units": "0 to 1", "lines": lines, "low": 0, "high": 1}
    if "held" in packet:
        series["shaded"] = {"name": "held", "values": packet.read("held").astype(int).tolist()}
    if "contact" in packet:
        onset = packet.dataset_attributes("contact").get("contact_onset", -1)
        series["marks"] = [{"name": "contact onset", "frame": int(onset)}] if onset >= 0 else []
    return series


def _motion_series(packet: Packet) -> Series | None:
    lines = [
        _line(name, packet.read(f"motion/{name}"), 4) for name in ("robot", "object") if f"motion/{name}" in packet
    ]
    if not lines:
        return None
    series: Series = {"units": "frame widths/s", "lines": lines, "low": 0}
    if "phase" in packet:
        attributes = packet.dataset_attributes("phase")
        ends = phase_ends(packet.read("phase"), attributes["phases"])
        series["spans"] = [{"name": name, "first": first, "last": last} for name, first, last in ends]
        series["active_span"] = attributes["active_span"]
    return series


def _centroid_series(packet: Packet) -> Series | None:
    if "centroids" not in packet:
        return None
    values, sigma = packet.read("centroids"), packet.read("centroids_sigma")
    lines = [
        _line(name, values[:, axis], 5) | {"sigma": _rounded(sigma[:, axis], 5)} for axis, name in enumerate("xyz")
    ]
    return {"units": str(packet.dataset_attributes("centroids").get("units", "")), "lines": lines, "apart": True}


def _coverage_series(packet: Packet) -> Series | None:
    if "masks/object" not in packet:
        return None
    n, step = packet.n_frames, 256
    chunks = (packet.read("masks/object", at, min(at + step, n)) for at in range(0, n, step))
    coverage = np.concatenate([chunk.reshape(len(chunk), -1).mean(axis=1, dtype=np.float64) for chunk in chunks])
    lines = [_line("mask", 100 * coverage, 4)]
    return {"units": "% of the frame", "lines": lines, "low": 0}


def _tracks_series(packet: Packet) -> Series | None:
    lines = []
    for name in OBJECT_TRACKS:
        if f"tracks/{name}/xy" in packet:
            visible, on_object = packet.read(f"tracks/{name}/visibility"), packet.read(f"tracks/{name}/on_object")
            lines.append(_line(name, visible[:, on_object].sum(axis=1).astype(float), 0))
    return {"units": "visible points", "lines": lines, "low": 0} if lines else None


def _shape_series(packet: Packet) -> Series | None:
    if "shape_descriptors" not in packet:
        return None
    values = packet.read("shape_descriptors")
    lines = [_line(name, values[:, index], 5) for index, name in enumerate(DESCRIPTOR_NAMES)]
    return {
        "units": str(packet.dataset_attributes("shape_descriptors").get("units", "")),
        "lines": lines,
        "apart": True,
    }


def _line(name: str, values: NDArray[Any], digits: int) -> dict[str, Any]:
    return {"name": name, "values": _rounded(values, digits)}


def _stages(stages: Any) -> dict[str, Any]:
    """Provenance without the stages' reports, which `inspect` prints."""
    if not isinstance(stages, dict):
        return {}
    return {
        str(name): {key: value for key, value in stage.items() if key not in ("report", "outputs")}
        for name, stage in stages.items()
        if isinstance(stage, dict)
    }


def _tried(read: Callable[[], Any], faults: list[str], what: str) -> Any:
    try:
        return read()
    except (PacketError, KeyError, ValueError, IndexError) as error:
        # A dataset that another one needs may be missing or of the wrong shape: that too is damage to show.
        faults.append(f"{what}: {error}")
        return None


def _rounded(values: NDArray[Any], digits: int) -> list[Any]:
    """Nested lists with null for what is not finite, which JSON cannot say."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    if digits == 0 and np.isfinite(rounded).all():
        return list(rounded.astype(int).tolist())
    plain = rounded.astype(object)
    plain[~np.isfinite(rounded)] = None
    return list(plain.tolist())


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
