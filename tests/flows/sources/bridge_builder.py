"""Tiny BridgeData V2 trees."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

DATED = "bridge_data_v2/lab/sink/put_cup/00/2022-03-08_10-00-00"
LATE = "bridge_data_v1/berkeley/sink/put_cup/00/2021-06-18_09-12-44"
SIZE = (24, 32)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8 RGB, a smooth ramp of its own colour."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x * 3 + seed * 7, y * 4 + 30, np.full(size, 40 + seed * 5)], axis=-1).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def states(n_frames: int) -> np.ndarray:
    """(T, 7) float64: a path whose every step differs, the gripper closing, 1.01 at first."""
    t = np.arange(n_frames)
    columns = [
        0.2 + 0.01 * t,
        0.002 * t**2,
        0.1 - 0.003 * t,
        0.01 * t,
        0 * t,
        0.02 * t,
        np.linspace(1.01, 0.1, n_frames),
    ]
    return np.stack(columns, axis=1)


def write_trajectory(
    root: Path,
    n_frames: int = 6,
    *,
    dated: str = DATED,
    number: int = 0,
    cameras: int = 1,
    black: tuple[int, ...] = (),
    topics: list[Any] | None = None,
    n_actions: int | None = None,
    bare: bool = False,
    protocol: int = 3,
    lang: str | None = "put the cup in the sink\nconfidence: 1\n",
    stamps: list[float] | str | None = "regular",
    depth: np.dtype | type | None = None,
    observed: dict[str, Any] | None = None,
) -> Path:
    """A trajectory whose action t is exactly state[t+1] - state[t]; returns its folder."""
    folder = root / dated / f"raw/traj_group0/traj{number}"
    for camera in range(cameras):
        (folder / f"images{camera}").mkdir(parents=True)
        for t in range(n_frames):
            pixels = picture(t + 20 * camera) * (camera not in black)
            (folder / f"images{camera}/im_{t}.jpg").write_bytes(jpeg(pixels))
    if depth is not None:
        (folder / "depth_images0").mkdir()
        for t in range(n_frames):
            (folder / f"depth_images0/im_{t}.png").write_bytes(png(np.full(SIZE, 100 + t, depth)))
    state = states(n_frames)
    action = np.concatenate([np.diff(state[:, :6], axis=0), state[1:, 6:].round()], axis=1)
    action = action[: n_frames - 1 if n_actions is None else n_actions]
    times = [100.0 + 0.2 * t for t in range(n_frames)] if stamps == "regular" else stamps
    full = {"full_state": state, "state": state[:, :4], "time_stamp": times, "env_done": [False] * n_frames}
    obs_dict = {name: value for name, value in {**full, **(observed or {})}.items() if value is not None}
    policy_out = [row if bare else {"actions": row, "policy_type": "VRTeleopPolicy"} for row in action]
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps(obs_dict, protocol))
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(policy_out, protocol))
    (folder / "agent_data.pkl").write_bytes(b"never opened")
    if lang is not None:
        (folder / "lang.txt").write_text(lang)
    if topics is not None:
        (root / dated / "config.json").write_text(json.dumps({"agent": {"env": ["Widow", {"camera_topics": topics}]}}))
    return folder
