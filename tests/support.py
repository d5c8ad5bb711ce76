"""Builders of tiny clips, and the way to the development data beside the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.errors import CorruptDataError
from extractors.types import Episode, Frames
from flows.sources.base import EpisodeInfo, LeftOut

REPOSITORY = Path(__file__).resolve().parent.parent

WITHOUT_MODELS = ("masks.backend=recorded", "tracks.backend=off", "depth.backend=off")
"""Settings of a run whose models are not what is tested."""


def set_options(*settings: str) -> list[str]:
    """`settings` as arguments of the command line."""
    return [word for setting in settings for word in ("--set", setting)]


def shared_data(*parts: str) -> Path:
    """A path in the development data (`../shared/data`), or a skip that says what is missing."""
    path = REPOSITORY.parent.joinpath("shared", "data", *parts)
    if not path.exists():
        pytest.skip(f"development data not beside the checkout: ../shared/data/{'/'.join(parts)}")
    return path


@dataclass(frozen=True)
class ArraySource:
    """A source made of arrays: `count` clips of a textured square carried over a textured table.

    Episodes named in `broken` fail while they are decoded.
    """

    root: Path
    count: int = 3
    n_frames: int = 8
    broken: tuple[int, ...] = ()
    seed: int = 0
    fps: float = 5.0
    kind: str = "arrays"
    dataset: str = "squares"

    def episodes(self) -> Iterator[EpisodeInfo]:
        self.root.mkdir(parents=True, exist_ok=True)
        for index in range(self.count):
            file = self.root / f"{index}.txt"
            if not file.exists():
                file.write_text(str(index))
            yield EpisodeInfo(
                episode_id=f"square_{index}",
                episode_index=index,
                n_frames=self.n_frames,
                language_instruction=f"put square {index} on the table",
                cameras=("front",),
                fps=self.fps,
                files=(file,),
            )

    def left_out(self) -> tuple[LeftOut, ...]:
        return ()

    def reread(self, episode: Episode) -> Iterator[NDArray[np.uint8]] | None:
        return None

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        pixels, masks, depth = square_clip(self.n_frames, seed=self.seed + info.episode_index)
        frames: Frames = pixels
        if info.episode_index in self.broken:
            frames = _BreaksHalfWay(pixels)
        t = np.arange(self.n_frames)
        action_valid = t < self.n_frames - 1
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name="front",
            language_instruction=info.language_instruction,
            fps=self.fps,
            pixels=frames,
            timestamp=t / self.fps,
            action=np.where(action_valid[:, None], 0.1, np.nan).astype(np.float32) * np.ones((1, 7), np.float32),
            action_valid=action_valid,
            state=np.ones((self.n_frames, 7), np.float32),
            gripper=(t < self.n_frames // 3).astype(np.float32),
            recorded_depth=depth,
            recorded_masks=masks,
            provenance={
                "dataset": self.dataset,
                "kind": self.kind,
                "path": f"{info.episode_index}.txt",
                "episode_index": info.episode_index,
                "camera": "front",
                "frame_ids": t.tolist(),
            },
        )


def square_clip(
    n_frames: int, *, size: tuple[int, int] = (48, 64), seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32]]:
    """Frames (T, H, W, 3), masks (T, H, W) and metric depth of a textured 12 px square that moves 2 px a frame."""
    rng = np.random.default_rng(seed)
    height, width = size
    table = cv2.GaussianBlur(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), (5, 5), 0)
    square = cv2.GaussianBlur(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), (3, 3), 0)
    pixels = np.repeat(table[None], n_frames, axis=0)
    masks = np.zeros((n_frames, height, width), bool)
    depth = np.full((n_frames, height, width), 1.0, np.float32)
    for t in range(n_frames):
        x = 4 + min(2 * t, width - 20)
        pixels[t, 16:28, x : x + 12] = square
        masks[t, 16:28, x : x + 12] = True
        depth[t, 16:28, x : x + 12] = 0.8
    return pixels, masks, depth


@dataclass(frozen=True)
class _BreaksHalfWay:
    """Frames of which the second half cannot be decoded."""

    pixels: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        yield from self.pixels[: len(self.pixels) // 2]
        raise CorruptDataError("frame 4 cannot be decoded; fetch the episode again")
