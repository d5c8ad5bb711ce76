"""What is known of an episode's camera before it is calibrated, and the tracks of a clip side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.cameras import choose_camera
from extractors.types import Camera, SceneTracks
from flows.config import Config
from flows.stages.base import SCENE_TRACKS, StageInputs, read_track_sets


def camera_settings(config: Config) -> dict[str, Any]:
    """The settings that `packet_camera` depends on."""
    names = {"intrinsics", "camera_model", "field_of_view", "assumed_sigma", "calibration_sigma", "native_size"}
    return config.geometry.model_dump(mode="json", include=names)


def packet_camera(inputs: StageInputs, estimated: Camera | None = None) -> Camera:
    """The best known intrinsics, followed to the packet's size; `estimated` are those found from the clip."""
    config = inputs.config.geometry
    height, width = inputs.source["source"]["frame_size"]
    recorded = inputs.source["camera"]
    given = Camera(**recorded) if recorded is not None else None
    if config.intrinsics is not None:
        fx, fy, cx, cy = config.intrinsics
        given = Camera(fx, fy, cx, cy, width=width, height=height, source="calibrated")
    model = config.camera_model or inputs.source["source"].get("camera_model")
    camera = choose_camera(
        (height, width),
        given,
        model,
        estimated=estimated,
        native_size=config.native_size,
        assumed_fov_deg=config.field_of_view,
        calibration_sigma=config.calibration_sigma,
        assumed_sigma=config.assumed_sigma,
    )
    return camera.resized(inputs.size[1], inputs.size[0])


def scene_tracks(inputs: StageInputs, names: Sequence[str] = SCENE_TRACKS) -> SceneTracks | None:
    """Track sets side by side; tracks that several hold once; None without any."""
    sets = list(read_track_sets(inputs, ("xy", "visibility", "on_object", "queries"), names).values())
    if not sets:
        return None
    return joined_tracks(sets, inputs.size[1])


def joined_tracks(sets: Sequence[Mapping[str, NDArray[Any]]], width: int) -> SceneTracks:
    """Track sets (fields `xy`, `visibility`, `on_object`, `queries`) side by side, each query once."""
    queries = np.concatenate([found["queries"] for found in sets])
    _, once = np.unique(queries, axis=0, return_index=True)
    once.sort()
    return SceneTracks(
        np.concatenate([found["xy"] for found in sets], axis=1)[:, once],
        np.concatenate([found["visibility"] for found in sets], axis=1)[:, once],
        np.concatenate([found["on_object"] for found in sets])[once],
        width,
    )


def hand_places(inputs: StageInputs) -> NDArray[np.float32] | None:
    """(T, 3) metres, the hand in the robot's base frame: of its pose, else where the state begins with x, y, z."""
    valid = inputs.read("hand_pose_valid")
    if valid is not None and valid.all():
        pose = inputs.read("hand_pose")
        assert pose is not None
        place: NDArray[np.float32] = pose[:, :3, 3]
        return place
    state = inputs.read("state")
    if state is None or list(inputs.dataset("state").attributes.get("names", ()))[:3] != ["x", "y", "z"]:
        return None
    position: NDArray[np.float32] = state[:, :3]
    return position
