"""The hand's path and the object's points re-projected into a packet's frames: what a calibration claims, to see."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packers.reader import Packet

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

AXIS_M = 0.05
"""Length of the hand's axes as they are drawn."""

PICTURE_FRAMES = 5

OBJECT_RGB = (230, 159, 0)
"""The object on pictures and in recordings."""

LEAST_WIDTH_PX = 320
"""Frames are enlarged to this width, so that lines can be told apart in small ones."""

_PATH_RGB = (204, 121, 167)
_AXES_RGB = ((213, 94, 0), (0, 158, 115), (0, 114, 178))


def packet_pose(packet: Packet) -> tuple[Floats, Floats] | None:
    """Camera to base (T, 4, 4) of each frame and K (3, 3), None where the packet has no pose of its camera."""
    matrix = packet.read("intrinsics").astype(np.float64)
    if "extrinsics" in packet:
        pose = packet.read("extrinsics").astype(np.float64)
        return np.repeat(pose[None], packet.n_frames, axis=0), matrix
    if "camera_pose" in packet:
        return packet.read("camera_pose").astype(np.float64), matrix
    return None


def reported_pose(packet: Packet, camera: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """The same from the numbers of a calibration of a camera that stands still, used or refused."""
    height, width = packet.size
    focal, aspect = float(camera["focal_px"]), float(camera["pixel_aspect"])
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal * aspect, (height - 1) / 2], [0, 0, 1.0]])
    pose = np.asarray(camera["carrier_from_camera"], np.float64)
    return np.repeat(pose[None], packet.n_frames, axis=0), matrix


def in_pixels(points: Floats, base_from_camera: Floats, matrix: Floats) -> Floats:
    """(P, 2) packet pixels of points (P, 3) of the base frame; NaN behind the camera."""
    in_camera = (points - base_from_camera[:3, 3]) @ base_from_camera[:3, :3]
    depth = np.where(in_camera[:, 2:] > 0.02, in_camera[:, 2:], np.nan)
    scaled = in_camera / depth @ matrix.T
    return np.asarray(scaled[:, :2])


def hand_marks(packet: Packet, pose: tuple[Floats, Floats] | None = None) -> list[dict[str, Any]] | None:
    """For each frame the pixels of the hand's origin, of the ends of its axes and of the object's points.

    Returns:
        None without a camera; else `hand` [x, y], `axes` [[x, y]] * 3 and `object` [[x, y], ...], null where unknown.
    """
    pose = pose or packet_pose(packet)
    if pose is None or "hand_pose" not in packet:
        return None
    hand, camera, matrix = packet.read("hand_pose").astype(np.float64), *pose
    points = packet.read("object_points").astype(np.float64) if "object_points" in packet else np.zeros((0, 3))
    thing = packet.read("object_pose").astype(np.float64) if "object_pose" in packet else None
    tips = np.concatenate([np.zeros((1, 3)), AXIS_M * np.eye(3)])
    marks = []
    for t in range(packet.n_frames):
        frame = in_pixels(tips @ hand[t, :3, :3].T + hand[t, :3, 3], camera[t], matrix)
        mark: dict[str, Any] = {"hand": _listed(frame[0]), "axes": [_listed(tip) for tip in frame[1:]], "object": []}
        if thing is not None and np.isfinite(thing[t]).all():
            seen = in_pixels(points @ thing[t, :3, :3].T + thing[t, :3, 3], camera[t], matrix)
            mark["object"] = [_listed(point) for point in seen[:: max(1, len(seen) // 60)]]
        marks.append(mark)
    return marks


def draw_hand(frame: Image, marks: list[dict[str, Any]], t: int, scale: float = 1.0) -> Image:
    """`frame` (H, W, 3) RGB with the hand's path, its axes at frame `t` and the object's points, at `scale`."""
    import cv2

    canvas = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    canvas = np.ascontiguousarray(canvas)

    def at(pixel: list[float]) -> tuple[int, int]:
        x, y = np.clip((np.asarray(pixel) + 0.5) * scale - 0.5, -4000, 4000) * 16
        return round(float(x)), round(float(y))

    path = [mark["hand"] for mark in marks]
    for before, after in pairwise(path):
        if before is not None and after is not None:
            cv2.line(canvas, at(before), at(after), _PATH_RGB, 1, cv2.LINE_AA, 4)
    for point in marks[t]["object"]:
        if point is not None:
            cv2.circle(canvas, at(point), 24, OBJECT_RGB, cv2.FILLED, cv2.LINE_AA, 4)
    if path[t] is not None:
        for tip, colour in zip(marks[t]["axes"], _AXES_RGB, strict=True):
            if tip is not None:
                cv2.line(canvas, at(path[t]), at(tip), colour, 2, cv2.LINE_AA, 4)
        cv2.circle(canvas, at(path[t]), 56, (255, 255, 255), 1, cv2.LINE_AA, 4)
    return np.asarray(canvas, np.uint8)


def set_up_picture(path: Path, camera: Mapping[str, Any] | None) -> Image | None:
    """Frames of one packet side by side with the hand as a calibration sees it; None without one."""
    with Packet(path) as packet:
        pose = packet_pose(packet) if camera is None else reported_pose(packet, camera)
        marks = hand_marks(packet, pose) if pose is not None else None
        if marks is None:
            return None
        pixels = packet.read("pixels")
        scale = max(1.0, LEAST_WIDTH_PX / packet.size[1])
        shown = np.unique(np.linspace(0, packet.n_frames - 1, PICTURE_FRAMES).round().astype(int))
        return np.concatenate([draw_hand(pixels[t], marks, int(t), scale) for t in shown], axis=1)


def _listed(point: Floats) -> list[float] | None:
    return [round(float(value), 2) for value in point] if np.isfinite(point).all() else None
