"""The frames of the episodes under way: decoded once where they fit into the memory budget, and what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.types import Episode, Frames, Size
from flows.sources.base import EpisodeInfo, Source

PACKET_PIXEL_BYTES = 60
"""What the stages hold for each pixel of a packet's frames, bytes: its colours, masks, depth as numbers and as codes,
and copies of these. An estimate: 3 bytes of colour, 12 of depth in three forms, the same again in copies, and as much
for what a stage works with; networks' own buffers do not grow with a clip."""


class KeptFrames:
    """Lazy frames of which the first whole pass is kept, so that later stages need not decode again."""

    def __init__(self, frames: Frames) -> None:
        """`frames` are not decoded yet."""
        self.shape = tuple(frames.shape)
        self._lazy = frames
        self._kept: list[NDArray[Any]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for frame in self._lazy:
            kept.append(frame)
            yield frame
        # Only a whole pass: one that was left early, or ended at damage, is made again.
        self._kept = kept


@dataclass(frozen=True, slots=True)
class Opened:
    """What an episode takes that was just opened: bytes of its decoded frames, and of what stages work with."""

    decoded: int
    working: int


def open_episode(
    source: Source, info: EpisodeInfo, camera: str | None, size: Size, keeps: Callable[[Opened], bool]
) -> Episode:
    """The episode, packed at `size` (height, width), its frames kept once they are decoded where `keeps` says so.

    `keeps` is asked after opening and before anything is decoded, and may wait for the memory.
    """
    episode = source.open(info, camera)
    return with_kept_frames(episode) if keeps(Opened(frames_bytes(episode), working_bytes(episode, size))) else episode


def frames_bytes(episode: Episode) -> int:
    """What the decoded frames of an episode take: pixels, and recorded depth and masks."""
    pixels = episode.n_frames * int(np.prod(episode.size))
    maps = (4 * (episode.recorded_depth is not None)) + sum(
        each is not None for each in (episode.recorded_masks, episode.recorded_robot)
    )
    return pixels * (3 + maps)


def working_bytes(episode: Episode, size: Size) -> int:
    """What the stages hold beside the decoded frames, packed at `size` (height, width)."""
    return episode.n_frames * size[0] * size[1] * PACKET_PIXEL_BYTES


def with_kept_frames(episode: Episode) -> Episode:
    """The episode with lazy frames kept once they are decoded."""
    return replace(
        episode,
        pixels=_kept(episode.pixels),
        recorded_depth=None if episode.recorded_depth is None else _kept(episode.recorded_depth),
        recorded_masks=None if episode.recorded_masks is None else _kept(episode.recorded_masks),
        recorded_robot=None if episode.recorded_robot is None else _kept(episode.recorded_robot),
    )


def _kept(frames: Frames) -> Frames:
    return frames if isinstance(frames, np.ndarray) else KeptFrames(frames)
