"""Packets of generated scenes with exact cues, for a study that needs no extraction: `make study`.

    python -m tests.tools.study_packets OUT --episodes 24

Random tables, things and robots (flows/scenes) at 128 px and 5 frames/s; masks, depth, tracks and centroids are the
truth, so that the study asks what a cue is worth, not how well it was extracted.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.motion import describe_motion
from extractors.types import SceneTracks
from flows.output.directory import OutputDirectory
from flows.output.store import Store
from flows.scenes.drawing import Painter
from flows.scenes.episodes import arrays, record
from packers.writer import encode, write_packet

SIDE, FPS, FRAMES = 128, 5.0, 40
SKILLS = ("pick-place", "push", "pull")
KEY = hashlib.sha256(b"generated").hexdigest()


def write_packets(out: Path, episodes: int, seed: int = 0) -> list[Path]:
    """`episodes` packets in `out`/packets."""
    store = OutputDirectory.open(out).store()
    painter = Painter()
    try:
        return [_packet(painter, store, number, seed) for number in range(episodes)]
    finally:
        painter.close()


def _packet(painter: Painter, store: Store, number: int, seed: int) -> Path:
    skill = SKILLS[number % len(SKILLS)]
    truth = arrays(record(painter, (seed, number), (SIDE, SIDE), skill=skill, fps=FPS, frames=FRAMES))
    frames = len(truth["rgb"])
    values = _values(truth, frames)
    name = f"scene_{number:03d}_{skill.replace('-', '_')}"
    datasets = {dataset: encode(dataset, value, stage_key=KEY, **more) for dataset, (value, more) in values.items()}
    record_of = {"backend": "truth", "weights": {}, "device": "cpu", "precision": "fp32", "version": 1}
    attributes: dict[str, Any] = {
        "episode_id": name,
        "language_instruction": str(truth["language_instruction"]),
        "fps": FPS,
        "source": {
            "dataset": "scenes",
            "kind": "scenes",
            "path": f"seed{seed}/table{number % 8}/{name}",
            "key": {"path": name},
            "camera": "generated",
            "frame_ids": list(range(frames)),
            "frame_sha256": [hashlib.sha256(frame.tobytes()).hexdigest() for frame in truth["rgb"]],
            "resize": "none",
        },
        "config": {},
        "stages": {
            stage: {"key": KEY, **record_of, "outputs": {}, "report": {}}
            for stage in ("source", "masks", "depth", "tracks", "geometry")
        },
        "scores": {},
        "quality": {},
        "tags": [],
    }
    path = store.packet_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_packet(path, datasets, attributes)
    return path


def _values(truth: dict[str, Any], frames: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    given = np.arange(frames) < frames - 1
    depth = truth["depth"]
    valid = np.isfinite(truth["centroid_cam"]).all(1)
    state = np.concatenate([truth["ee_pose"][:, :3, 3], truth["gripper_opening"][:, None]], 1).astype(np.float32)
    # What is near counts most, as in the relative depth of every network; 0 is infinitely far.
    relative = np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 0).astype(np.float32)
    return {
        "pixels": (truth["rgb"], {}),
        "timestamp": (np.arange(frames) / FPS, {}),
        "intrinsics": (truth["K"], {"source": "calibrated", "sigma": 0.0}),
        "action": (np.where(given[:, None], truth["action"], np.nan).astype(np.float32), {}),
        "action_valid": (given, {}),
        "state": (state, {"names": ["x", "y", "z", "gripper"]}),
        "masks/object": (truth["object_mask"].astype(bool), {}),
        "masks/score": (truth["object_mask"].any((1, 2)).astype(np.float32), {}),
        "masks/robot": (truth["robot_mask"].astype(bool), {}),
        "depth/relative": (relative, {}),
        "centroids": (truth["centroid_cam"].astype(np.float32), {}),
        "centroids_valid": (valid, {}),
        "centroids_sigma": (np.where(valid[:, None], np.full((frames, 3), 0.005, np.float32), np.float32(np.nan)), {}),
        **_tracks(truth, frames),
        **_motion(truth, np.arange(frames) / FPS),
    }


def _tracks(truth: dict[str, Any], frames: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    xy, seen = truth["grid_xy"].astype(np.float32), truth["grid_vis"].astype(bool)
    queries = np.concatenate([np.zeros((len(xy[0]), 1), np.float32), xy[0]], 1)
    values = {
        "xy": xy,
        "visibility": seen,
        "confidence": seen.astype(np.float32),
        "visibility_score": seen.astype(np.float32),
        "queries": queries,
        "on_object": truth["grid_kind"] == 2,
    }
    return {f"tracks/grid/{name}": (value, {}) for name, value in values.items()}


def _motion(truth: dict[str, Any], timestamp: NDArray[np.float64]) -> dict[str, tuple[Any, dict[str, Any]]]:
    tracks = SceneTracks(truth["grid_xy"], truth["grid_vis"].astype(bool), truth["grid_kind"] == 2, SIDE)
    found = describe_motion(
        timestamp,
        tracks=tracks,
        masks=truth["object_mask"].astype(bool),
        robot_masks=truth["robot_mask"].astype(bool),
        hand=truth["ee_pose"][:, :3, 3],
    )
    values: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, speeds in (("motion/robot", found.robot), ("motion/object", found.object)):
        values |= {name: (speeds, {}), f"{name}_valid": (np.isfinite(speeds), {})}
    return values


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{len(write_packets(options.out, options.episodes, options.seed))} packets in {options.out}")


if __name__ == "__main__":
    main()
