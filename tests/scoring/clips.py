"""A good clip made by construction: a textured square is fetched and carried over a textured table."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scoring.report import ClipSignals

SIZE = 224
FIRST_MOVE, STEP = 8, 4.0


def good_clip(n_frames: int = 30, **changes: Any) -> ClipSignals:
    """The arm (a dark bar) comes from the right until frame 8, then takes the 40 px square along, 4 px a frame."""
    rng = np.random.default_rng(0)
    table = cv2.GaussianBlur(rng.integers(40, 220, (SIZE, SIZE, 3), dtype=np.uint8), (0, 0), 4)
    table = cv2.normalize(table, None, 40, 220, cv2.NORM_MINMAX)
    square = cv2.GaussianBlur(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), (0, 0), 2)
    square = cv2.normalize(square, None, 0, 255, cv2.NORM_MINMAX)
    pixels = np.repeat(table[None], n_frames, axis=0)
    masks, robot = (np.zeros((n_frames, SIZE, SIZE), bool) for _ in range(2))
    slope = np.linspace(1.0, 2.4, SIZE, dtype=np.float32)[::-1, None]
    depth = np.repeat(np.broadcast_to(slope, (SIZE, SIZE))[None], n_frames, axis=0).copy()
    for t in range(n_frames):
        x, arm = place(t), arm_place(t)
        pixels[t, 60:100, x : x + 40] = square
        masks[t, 60:100, x : x + 40] = True
        depth[t, 60:100, x : x + 40] = 1.2
        pixels[t, :90, arm : arm + 12] = (20, 30, 60)
        robot[t, :90, arm : arm + 12] = True
        depth[t, :90, arm : arm + 12] = 1.1
        masks[t] &= ~robot[t]
    times = np.arange(n_frames)
    x = np.array([place(t) for t in times], np.float32)
    arm = np.array([arm_place(t) for t in times], np.float32)
    action = np.full((n_frames, 4), np.nan, np.float32)
    action[:-1] = 0.01 * np.sin(0.3 * times[:-1, None] + np.arange(4))
    held = times >= FIRST_MOVE
    signals: dict[str, Any] = {
        "language_instruction": "put the square on the plate",
        "n_frames": n_frames,
        "pixels": pixels,
        "timestamp": times / 5.0,
        "fps": 5.0,
        "frame_ids": times.tolist(),
        "action": action,
        "action_valid": times < n_frames - 1,
        "state": np.stack([arm, 0 * arm, 0 * arm], axis=1),
        "gripper": np.where(held, 0.3, 1.0).astype(np.float32),
        "masks": masks,
        "robot": robot,
        "mask_score": np.ones(n_frames, np.float32),
        "depth": depth[:, 2::4, 2::4],
        "depth_kind": "metric",
        "tracks": {"grid": _grid(n_frames), "foreground": _foreground(x)},
        "contact": held.astype(np.float32),
        "phase": np.where(held, 4, 2).astype(np.uint8),
        "robot_speed": np.full(n_frames, 0.1, np.float32),
        "object_speed": np.where(held, 0.1, np.nan).astype(np.float32),
        "active_span": (0, n_frames),
        "held": held,
        "centroids_valid": np.ones(n_frames, bool),
        "intrinsics": np.array([[200.0, 0, 111.5], [0, 200.0, 111.5], [0, 0, 1]]),
        "intrinsics_source": "calibrated",
        "camera_moves": False,
    }
    return ClipSignals(**signals | changes)


def place(t: int) -> int:
    """Left edge of the square."""
    return round(20 + STEP * max(t - FIRST_MOVE, 0))


def arm_place(t: int) -> int:
    """Left edge of the arm."""
    return place(t) + 40 + round(8 * max(FIRST_MOVE - t, 0))


def _grid(n_frames: int) -> dict[str, NDArray[Any]]:
    y, x = np.meshgrid(np.arange(5, SIZE, 20.0), np.arange(5, SIZE, 20.0), indexing="ij")
    xy = np.stack([x.ravel(), y.ravel()], axis=1)[y.ravel() > 110]  # below the square's way, which nothing covers
    jitter = np.random.default_rng(1).normal(0, 0.1, (n_frames, len(xy), 2))
    return _fields(xy[None] + jitter, np.zeros(len(xy), bool))


def _foreground(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(2)
    own = rng.uniform([2, 62], [35, 97], (80, 2))
    away = rng.uniform([0, 120], [SIZE - 1, SIZE - 1], (60, 2))
    moved = own[None] + np.stack([x, 0 * x], axis=1)[:, None]
    xy = np.concatenate([moved, np.repeat(away[None], len(x), axis=0)], axis=1)
    return _fields(xy + rng.normal(0, 0.1, xy.shape), np.arange(140) < 80)


def _fields(xy: NDArray[Any], on_object: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {"xy": xy.astype(np.float32), "visibility": np.ones(xy.shape[:2], bool), "on_object": on_object}
