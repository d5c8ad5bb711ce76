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
