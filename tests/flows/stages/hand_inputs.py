"""A generated episode of a robot before a camera, as the stages after the tracks are given it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from flows.config import load_config
from packers.schema import Dataset
from packers.writer import decode
from tests.benchmarks.handeye_scenes import OBJECT, Recipe, Scene, random_scene

CLEAR = Recipe(turn=(60.0, 80.0), noise_px=0.5, missing=0.2, travel=(0.3, 0.4), n_hand=(24, 30), n_static=60)
"""Scenes whose hand turns and moves enough for a single clip."""

NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")


class SceneInputs:
    """Stands for `StageInputs`: a scene's tracks, state and a picture of a still table."""

    def __init__(self, scene: Scene, *settings: str, episode_id: str = "scene", setup: str = "kitchen", table: int = 0):
        self.scene = scene
        self.config = load_config(assignments=("packet.height=256", "packet.width=256", *settings)).resolved()
        self.size = (256, 256)
        self.episode_id = episode_id
        self.camera_moves = False
        self.results: dict[str, Any] = {}
        clip = scene.clip
        n_frames, n_tracks = clip.visibility.shape
        quaternions = Rotation.from_matrix(clip.hand_pose[:, :3, :3]).as_quat()
        noise = np.random.default_rng(table).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        picture = cv2.GaussianBlur(noise, (0, 0), 4)
        queries = np.concatenate([np.zeros((n_tracks, 1)), np.arange(n_tracks)[:, None] * [1.0, 0.5]], axis=1)
        self.arrays: dict[str, Any] = {
            "pixels": np.repeat(picture[None], n_frames, axis=0),
            "timestamp": clip.timestamp - clip.timestamp[0],
            "state": np.concatenate([clip.hand_pose[:, :3, 3], quaternions], axis=1).astype(np.float32),
            "held": scene.held,
            "tracks/grid/xy": clip.xy.astype(np.float32),
            "tracks/grid/visibility": clip.visibility,
            "tracks/grid/on_object": scene.kind == OBJECT,
            "tracks/grid/queries": queries.astype(np.float32),
        }
        self.source: dict[str, Any] = {
            "tags": [],
            "camera": None,
            "fps": 5.0,
            "source": {
                "frame_size": [256, 256],
                "frame_sha256": ["0"] * n_frames,
                "dataset": setup,
                "path": "a/0.txt",
                "camera": "front",
            },
        }

    def has(self, name: str) -> bool:
        return name in self.arrays

    def read(self, name: str) -> Any:
        return self.arrays.get(name)

    def dataset(self, name: str) -> Dataset:
        attributes = {"names": list(NAMES)} if name == "state" else self.attributes.get(name, {})
        return Dataset(self.arrays[name], attributes)

    attributes: dict[str, Any] = {}  # noqa: RUF012 - set by `take`

    def take(self, stage: str, output: Any) -> None:
        """Makes what a stage made known to those after it."""
        self.arrays |= {name: decode(dataset) for name, dataset in output.datasets.items()}
        self.attributes = {**self.attributes, **{name: each.attributes for name, each in output.datasets.items()}}
        self.results[stage] = SimpleNamespace(record=SimpleNamespace(report=dict(output.report)))


def scene_inputs(seed: int, *settings: str, recipe: Recipe = CLEAR, **named: Any) -> SceneInputs:
    """The inputs of one generated scene."""
    return SceneInputs(random_scene(seed, recipe), *settings, **named)


def box_on_hand(inputs: SceneInputs, side_m: float = 0.07) -> None:
    """Puts a box with a pattern on each face into the scene's pictures, where the hand is, and its mask."""
    scene, pixels = inputs.scene, inputs.arrays["pixels"]
    masks = np.zeros(pixels.shape[:3], np.bool_)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (6, 48, 48, 3), dtype=np.uint8)
    patterns = [cv2.GaussianBlur(each, (0, 0), 2.0) for each in noise]
    patterns = [cv2.normalize(each, None, 20, 235, cv2.NORM_MINMAX) for each in patterns]  # type: ignore[call-overload]
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) * side_m / 2
    turns = [Rotation.from_euler("x", angle, degrees=True) for angle in (0, 90, 180, 270)]
    turns += [Rotation.from_euler("y", angle, degrees=True) for angle in (90, 270)]
    from_pattern = np.array([[0, 0], [47, 0], [47, 47], [0, 47]], np.float32)
    camera = np.linalg.inv(scene.carrier_from_camera)
    for picture, mask, hand in zip(pixels, masks, scene.clip.hand_pose, strict=True):
        for pattern, turn in zip(patterns, turns, strict=True):
            placed = camera @ hand @ np.vstack([turn.apply(corners).T, np.ones(4)])
            if np.cross(placed[:3, 1] - placed[:3, 0], placed[:3, 3] - placed[:3, 0]) @ placed[:3, 0] >= 0:
                continue  # its back
            seen = (placed[:2] / placed[2] * scene.focal_px + 127.5).T.astype(np.float32)
            warp = cv2.getPerspectiveTransform(from_pattern, seen)
            face = cv2.warpPerspective(np.full((48, 48), 255, np.uint8), warp, (256, 256)) > 127
            picture[face] = cv2.warpPerspective(pattern, warp, (256, 256))[face]
            mask |= face
    inputs.arrays["masks/robot"] = masks
