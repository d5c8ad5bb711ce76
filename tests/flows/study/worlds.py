"""Packets of a toy world whose answer is known: a square that actions move, before unpredictable noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.packers.training import packets

SIDE = 32


def write_toy(
    folder: Path, episodes: int, frames: int = 40, *, seed: int = 0, noise: float = 60.0, side: int = SIDE
) -> list[Path]:
    """Packets of the toy: `state` is where the square is; `shape_descriptors` are noise."""
    return [_episode(folder, number, frames, seed, noise, side) for number in range(episodes)]


def _episode(folder: Path, number: int, frames: int, seed: int, noise: float, side: int) -> Path:
    rng = np.random.default_rng([seed, number])
    action = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
    place = np.zeros((frames, 2), np.float32)
    place[0] = rng.uniform(-0.8, 0.8, 2)
    for t in range(1, frames):
        place[t] = np.clip(place[t - 1] + 0.35 * action[t - 1], -0.8, 0.8)
    pixels = _drawn(place, rng, noise, side)
    action[-1] = np.nan
    values = {
        "pixels": pixels,
        "action": action,
        "state": np.concatenate([place, place[:, :1] * 0], 1),
        "shape_descriptors": rng.normal(size=(frames, 10)).astype(np.float32),
        "shape_descriptors_valid": np.ones(frames, bool),
    }
    name = f"toy-{seed}-{number:03d}"
    return packets.write(folder, name, frames, action_width=2, episode=number, size=(side, side), values=values)


def _drawn(place: np.ndarray, rng: np.random.Generator, noise: float, side: int) -> np.ndarray:
    coarse = rng.normal(size=(len(place), 4, 4, 3)) * noise
    frames = 110 + np.kron(coarse, np.ones((1, side // 4, side // 4, 1)))
    yy, xx = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    for t, (x, y) in enumerate(place):
        inside = (np.abs(xx - x) < 0.22) & (np.abs(yy - y) < 0.22)
        frames[t][inside] = (235, 60, 40)
    return np.clip(frames, 0, 255).astype(np.uint8)
