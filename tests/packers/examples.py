"""A small packet with every dataset of the schema, consistent with itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extractors.phases import PHASES
from packers.schema import Dataset
from packers.writer import encode, write_packet

KEYS = {
    stage: hashlib.sha256(stage.encode()).hexdigest()
    for stage in ("source", "masks", "depth", "tracks", "calibration", "geometry", "placing")
}
PHASE = {"phases": list(PHASES), "acts_on": "masks/object"}
_SIGMAS = {"position_sigma_m": 0.01, "rotation_sigma_deg": 0.5, "delay_s": 0.0}
FRAMES, HEIGHT, WIDTH, POINTS = 6, 24, 32, 12


def arrays(
    frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH
) -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Dataset name -> (stage, values, attributes); a square that moves one pixel a frame over a slanted plane."""
    rng = np.random.default_rng(0)
    t = np.arange(frames)
    masks = np.zeros((frames, height, width), bool)
    for frame in range(frames - 1):
        masks[frame, 8:14, 4 + frame % 8 : 10 + frame % 8] = True
    things = np.zeros((frames, height, width), np.uint8)
    things[:, 1:4, 1:4], things[:, 18:22, 20:30] = 1, 2
    dilated = {radius: _square_dilation(masks, radius) for radius in (2, 4)}
    z = np.broadcast_to(np.linspace(0.5, 2.0, height, dtype=np.float32)[:, None], (frames, height, width)).copy()
    z[:, :, 0] = 0
    relative = (3 + rng.random((frames, height, width))).astype(np.float32)
    stabilizer = np.stack([1 + 0.01 * np.sin(t), 0.1 * np.cos(t)], axis=1).astype(np.float32)
    stabilized = stabilizer[:, 0, None, None] * relative + stabilizer[:, 1, None, None]
    valid = masks.any(axis=(1, 2))
    centroids = np.where(valid[:, None], [0.1, 0.2, 1.0], np.nan).astype(np.float32)
    shape = np.where(valid[:, None], [0.1, 0.2, 1.0, 0.4, 0.2, 0.1, 0.5, 0.25, 0.3, 0.9], np.nan).astype(np.float32)
    action = rng.normal(size=(frames, 7)).astype(np.float32)
    action[-1] = np.nan
    found = {
        "pixels": ("source", rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), {}),
        "timestamp": ("source", t / 5, {}),
        "intrinsics": (
            "source",
            np.array([[30, 0, 15.5], [0, 31, 11.5], [0, 0, 1]]),
            {"source": "assumed", "sigma": 0.1},
        ),
        "action": ("source", action, {}),
        "action_valid": ("source", t < frames - 1, {}),
        "state": ("source", rng.normal(size=(frames, 3)), {"names": ["x", "y", "größe"]}),
        "gripper": ("source", np.linspace(1, 0, frames), {}),
        "hand_pose": ("calibration", _poses(t > 0, 0.3), {}),
        "hand_pose_valid": ("calibration", t > 0, {}),
        "extrinsics": ("calibration", np.eye(4), _SIGMAS),
        "hand_from_camera": ("calibration", np.eye(4), _SIGMAS),
        "camera_pose": ("calibration", _poses(t > 0, 0.4), {}),
        "camera_pose_valid": ("calibration", t > 0, {}),
        "scene_points": ("calibration", np.ones((4, 3)), {}),
        "scene_points_sigma": ("calibration", np.full((4, 3), 0.01), {}),
        "object_points": ("placing", np.ones((5, 3)), {}),
        "object_points_sigma": ("placing", np.full((5, 3), 0.01), {}),
        "object_pose": ("placing", _poses(valid, 0.2), {}),
        "object_pose_valid": ("placing", valid, {}),
        "object_pose_sigma": ("placing", np.where(valid[:, None], [0.01, 2.0], np.nan), {}),
        "centroids_base": ("placing", centroids, {"made_from": "object_pose"}),
        "centroids_base_valid": ("placing", valid, {}),
        "centroids_base_sigma": ("placing", np.abs(centroids) * np.float32(0.01), {}),
        "depth/aligned": ("placing", z, {"fit_scale": 0.5, "fit_shift": 0.1, "sigma": 0.05}),
        "contact": ("geometry", (t >= 3) * 0.9, {"contact_onset": 3 if frames > 3 else -1}),
        "held": ("geometry", t >= 4, {}),
        "phase": ("geometry", np.where(t >= 3, 3, 2).astype(np.uint8), {"active_span": [0, frames]} | PHASE),
        "motion/robot": ("geometry", np.where(t > 0, 0.1, np.nan), {}),
        "motion/robot_valid": ("geometry", t > 0, {}),
        "motion/object": ("geometry", np.where(valid, 0.02, np.nan), {}),
        "motion/object_valid": ("geometry", valid, {}),
        "masks/object": ("masks", masks, {}),
        "masks/object_dilate2": ("masks", dilated[2], {}),
        "masks/object_dilate4": ("masks", dilated[4], {}),
        "masks/score": ("masks", valid * 0.8, {}),
        "masks/robot": ("masks", np.zeros_like(masks), {}),
        "masks/things": ("masks", things, {"names": ["", "plate", ""]}),
        "depth/relative": ("depth", relative, {}),
        "depth/stabilized": ("depth", stabilized, {}),
        "depth/stabilizer": ("depth", stabilizer, {}),
        "depth/metric": ("depth", z, {}),
        "centroids": ("geometry", centroids, {}),
        "centroids_valid": ("geometry", valid, {}),
        "centroids_sigma": ("geometry", np.abs(centroids) * np.float32(0.01), {}),
        "shape_descriptors": ("geometry", shape, {}),
        "shape_descriptors_valid": ("geometry", valid, {}),
    }
    for name in ("grid", "foreground"):
        found |= {f"tracks/{name}/{field}": ("tracks", value, {}) for field, value in _tracks(rng, masks).items()}
    return found


def _poses(known: Any, x_m: float) -> Any:
    poses = np.repeat(np.eye(4)[None], len(known), axis=0)
    poses[:, 0, 3] = x_m
    return np.where(known[:, None, None], poses, np.nan)


def _square_dilation(masks: Any, radius: int) -> Any:
    grown = masks.copy()
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            grown |= np.roll(masks, (y, x), axis=(1, 2))
    return grown


def _tracks(rng: np.random.Generator, masks: Any) -> dict[str, Any]:
    frames, height, width = masks.shape
    queries = np.stack([np.zeros(POINTS), rng.integers(0, width, POINTS), rng.integers(0, height, POINTS)], axis=1)
    queries[:4, 1:] = np.minimum([[5, 9], [6, 9], [7.5, 10.5], [8, 12]], [width - 1, height - 1])
    return {
        "xy": np.repeat(queries[None, :, 1:], frames, axis=0),
        "visibility": rng.random((frames, POINTS)) > 0.5,
        "confidence": rng.random((frames, POINTS)),
        "visibility_score": rng.random((frames, POINTS)),
        "queries": queries,
        "on_object": masks[0, np.rint(queries[:, 2]).astype(int), np.rint(queries[:, 1]).astype(int)],
    }


def datasets(frames: int = FRAMES, **size: int) -> dict[str, Dataset]:
    """Every dataset encoded, with its stage's key."""
    return {
        name: encode(name, values, stage_key=KEYS[stage], **attributes)
        for name, (stage, values, attributes) in arrays(frames, **size).items()
    }


def attributes(episode_id: str = "episode_0", frames: int = FRAMES) -> dict[str, Any]:
    record = {
        "backend": None,
        "weights": {},
        "device": "cpu",
        "precision": "fp32",
        "version": 1,
        "outputs": {},
        "report": {},
    }
    return {
        "episode_id": episode_id,
        "language_instruction": "put the größe cup\non the plate",
        "fps": 5.0,
        "source": {
            "dataset": "bridge",
            "kind": "bridge-raw",
            "path": "a/b/traj0",
            "key": {"path": "a/b/traj0"},
            "camera": "images0",
            "frame_ids": list(range(frames)),
            "frame_sha256": [hashlib.sha256(bytes([frame % 256])).hexdigest() for frame in range(frames)],
            "resize": "area averaging down, bilinear up, each axis by its own factor",
        },
        "config": {"masks": {"dilate": [2, 4]}},
        "stages": {stage: {"key": key, **record} for stage, key in KEYS.items()},
        "scores": {"score": 0.7, "depth": None},
        "quality": {"masks": {"status": "pass", "reasons": []}},
        "tags": ["no-grasp"],
    }


def write_example(folder: Path, episode_id: str = "episode_0", frames: int = FRAMES, **size: int) -> Path:
    path = folder / f"{episode_id}.h5"
    write_packet(path, datasets(frames, **size), attributes(episode_id, frames))
    return path


def tamper(path: Path, change: Callable[[h5py.File], None], *, sign: bool = True) -> None:
    """Changes a packet in place, and signs it again as FORMAT.md says, so that only the change is wrong with it."""
    with h5py.File(path, "r+") as file:
        change(file)
    if sign:
        path.write_bytes(signed(path.read_bytes()[512:]))


def signed(body: bytes) -> bytes:
    """An HDF5 part as a packet with the sha256 that fits it."""
    return (b"CUEPACK1" + hashlib.sha256(body).hexdigest().encode()).ljust(512, b"\0") + body


def as_first_version(file: h5py.File) -> None:
    """Turns a packet into one of `cuepack/1`, whose texts have a variable length."""
    file.attrs["schema"] = np.bytes_(b"cuepack/1")
    for found in (file, *map(file.get, _names(file))):
        for name, value in list(found.attrs.items()):
            if isinstance(value, bytes):
                found.attrs[name] = value.decode()
            elif getattr(value, "dtype", None) is not None and value.dtype.kind == "S":
                found.attrs[name] = [each.decode() for each in value.tolist()]


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def set_values(name: str, index: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        rows = file[name][()]
        rows[index] = value
        file[name][...] = rows

    return change


def replaced(found: dict[str, Dataset], name: str, values: Any, **more: Any) -> dict[str, Dataset]:
    """`found` with other values in one dataset."""
    kept = {
        key: value
        for key, value in found[name].attributes.items()
        if key in ("stage_key", "names", *PHASE, "active_span")
    }
    return found | {name: encode(name, values, **kept, **more)}
