"""Training clips: generated once into a folder, a file each, and read as batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.scenes.drawing import Painter
from flows.scenes.episodes import record
from packers.atomic import written_whole

N_FRAMES = 16
"""Frames of a training clip, spread over its episode."""

DRAWN_PX = 160
"""Side of a training clip's frames."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Pixels (T, H, W, 3) uint8, classes (T, H, W) uint8 as in `Recording.classes`, inverse depth (T, H, W) 1/m."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    inverse_depth: NDArray[np.float32]


def generate(
    folder: Path, count: int, seed: int, *, first: int = 0, side: int = DRAWN_PX, frames: int = N_FRAMES
) -> Iterator[Path]:
    """Clips `first` .. `count` - 1 of `seed` in `folder`, drawn where they are not there yet; yields their paths.

    Raises:
        ConfigError: MuJoCo is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    painter = None
    for index in range(first, count):
        path = folder / f"clip{index:06d}.npz"
        if not path.exists():
            painter = painter or Painter()
            made = record(painter, (seed, index), (side, side), frames=frames)
            depth = made.drawn.depth
            inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 0).astype(np.float32)
            write_clip(path, Clip(made.pixels, made.classes, inverse))
        yield path
    if painter is not None:
        painter.close()


def write_clip(path: Path, clip: Clip) -> None:
    """As `read_clip` reads it; depth in half precision."""
    with written_whole(path) as partial, partial.open("wb") as file:
        inverse = clip.inverse_depth.astype(np.float16)
        np.savez(file, pixels=clip.pixels, classes=clip.classes, inverse_depth=inverse)


def read_clip(path: Path) -> Clip:
    """One clip of `generate`."""
    with np.load(path) as data:
        return Clip(data["pixels"], data["classes"], data["inverse_depth"].astype(np.float32))
