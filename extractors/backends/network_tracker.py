"""What point trackers that are networks share: clips encoded once, in batches that fit; visibility from scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.advance import advance
from extractors.backends.device_memory import DeviceMemory, attempt
from extractors.backends.devices import Precision, check_precision, choose_device
from extractors.errors import ConfigError, MissingDataError, ShapeError
from extractors.track_queries import Posed, check_queries
from extractors.types import Frames, Size, Tracks, check_pixels

VisibleBy = Literal["both", "visibility"]

_REMEDY = (
    "set tracks.window_frames, take fewer points, free the device, or set tracks.backend=lucas-kanade, which needs none"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How a tracker's network is run, and what counts as visible.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
        precision: "fp16" is mixed precision and needs CUDA; coordinates are fp32 all the same.
        threshold: visible means a score above this.
        visible_by: the score: "both" is visibility x confidence, "visibility" the first alone.
        batch_frames: frames encoded at once; none: 1 on a CPU, 32 else. Halved when memory runs out.
        chunk_tokens: points x frames handled at once; none: as fits the device. Halved when memory runs out.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    threshold: float
    visible_by: VisibleBy = "both"
    batch_frames: int | None = None
    chunk_tokens: int | None = None


class ClipMaps(Protocol):
    """A clip's features."""

    @property
    def n_frames(self) -> int:
        """T."""
        ...

    def put(self, first: int, part: Self) -> None:
        """Stores the maps of some frames from frame `first` on."""
        ...


Maps = TypeVar("Maps", bound=ClipMaps)


class NetworkTracker(ABC, Generic[Maps]):
    """A point tracker whose network encodes each frame on its own, once for all query sets.

    Attributes:
        device: where it runs.
        precision: "fp32" or "fp16".
        memory: of the device.
        batch_frames: frames encoded at once, to begin with.
        chunk_tokens: points x frames handled at once, to begin with.
    """

    name: ClassVar[str]
    """As in the table of backends."""

    settings: NetworkSettings

    def __init__(self, settings: NetworkSettings, *, cpu_tokens: int, gpu_tokens: int) -> None:
        """Checks the settings that all of them have; the network is loaded after this, so that wrong ones cost no time.

        Args:
            settings: how to run it.
            cpu_tokens: `chunk_tokens` on a CPU where the settings name none.
            gpu_tokens: the same on other devices.

        Raises:
            ConfigError: a setting is unknown or needs another device.
        """
        self.device = choose_device(settings.device)
        check_precision(settings.precision, self.device, "tracks.precision")
        if not 0.0 <= settings.threshold < 1.0:
            raise ConfigError(f"{self.name} wants threshold in [0, 1), got {settings.threshold}")
        if settings.visible_by not in get_args(VisibleBy):
            raise ConfigError(
                f"no visibility rule {settings.visible_by!r}; choose one of {sorted(get_args(VisibleBy))}"
            )
        on_cpu = self.device.type == "cpu"
        self.precision: str = settings.precision
        self.batch_frames = settings.batch_frames or (1 if on_cpu else 32)
        self.chunk_tokens = settings.chunk_tokens or (cpu_tokens if on_cpu else gpu_tokens)
        self.memory = DeviceMemory(self.device, self.name, _REMEDY)

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y) through `pixels`; see `PointTracker` and `EncodedClip.track`."""
        check_pixels(pixels)
        check_queries(queries, len(pixels), (int(pixels.shape[1]), int(pixels.shape[2])))
        return self.prepare(pixels).track(queries)

    @abstractmethod
    def prepare(self, pixels: Frames) -> EncodedClip[Maps]:
        """The clip's features, ready for any number of query sets; see `encode_clip`."""

    @property
    @abstractmethod
    def frame_mb(self) -> float:
        """What a frame's features take in fp32, MB."""

    @abstractmethod
    def room(self, n_frames: int) -> Maps:
        """Maps to be filled, of `n_frames` frames."""

    @abstractmethod
    def encode(self, frames: list[NDArray[np.uint8]]) -> Maps:
        """Features of some frames, each (H, W, 3) uint8 RGB."""

    def encode_clip(self, pixels: Frames) -> Maps:
        """The features of all frames.

        Args:
            pixels: (T, H, W, 3) uint8 RGB, iterated once.

        Raises:
            ShapeError: `pixels` is not RGB, or empty.
            MissingDataError: another number of frames came than `len(pixels)` said.
            DeviceMemoryError: the features do not fit, or not even one frame at a time can be encoded.
        """
        check_pixels(pixels)
        n_frames, batch = len(pixels), self.batch_frames
        maps = attempt(partial(self.room, n_frames))
        if maps is None:
            raise self.memory.error(f"the features of {n_frames} frames ({self.frame_mb:.1f} MB a frame, half in fp16)")
        for first, frames in frame_batches(pixels, batch):
            done = 0
            while done < len(frames):
                waiting = frames[done:]

                def work(count: int, waiting: list[NDArray[np.uint8]] = waiting) -> Maps:
                    return self.encode(waiting[:count])

                part, batch = self.memory.fit(work, batch, 1, "encoding one frame")
                maps.put(first + done, part)
                done += part.n_frames
            advance(first + done, n_frames)
        return maps


class EncodedClip(ABC, Generic[Maps]):
    """A clip's features, ready for any number of query sets."""

    at_once = 1

    def __init__(self, tracker: NetworkTracker[Maps], maps: Maps, size: Size) -> None:
        """`maps` made by `tracker` from frames of `size`."""
        self._settings, self.maps, self.size = tracker.settings, maps, size

    @abstractmethod
    def follow(self, queries: NDArray[np.float32], *, posed: Posed) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network's answer: (T, N, 2) positions in pixels of the frames, (T, N, 2) visibility and confidence."""

    def track(self, queries: NDArray[np.float32], *, posed: Posed = "anywhere") -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y), in pixels of the frames that were prepared.

        In its own frame a query is visible, with scores of 1, and stays where it was posed.

        Raises:
            ShapeError: `queries` have another shape, or one is not finite or outside the clip.
            DeviceMemoryError: the device's memory does not suffice for the smallest chunks.
        """
        check_queries(queries, self.maps.n_frames, self.size)
        queries = np.asarray(queries, dtype=np.float32)
        xy, scores = self.follow(queries, posed=posed)
        own = queries[:, 0].astype(int), np.arange(len(queries))
        xy[own], scores[own] = queries[:, 1:], 1.0
        visibility, confidence = scores[..., 0].copy(), scores[..., 1].copy()
        score = visibility if self._settings.visible_by == "visibility" else visibility * confidence
        return Tracks(
            xy=xy,
            visibility=score > self._settings.threshold,
            confidence=confidence,
            visibility_score=visibility,
            queries=queries,
        )


def frame_batches(pixels: Frames, count: int) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Frames in runs of `count`, each with the number of its first frame.

    Raises:
        ShapeError: a frame is not as `pixels.shape` says.
        MissingDataError: there are fewer or more of them.
    """
    promised, shape = len(pixels), tuple(pixels.shape[1:])
    first = 0
    frames: list[NDArray[np.uint8]] = []
    for frame in pixels:
        index = first + len(frames)
        if index == promised:
            raise MissingDataError(f"wanted {promised} frames, decoding gave more; repair or drop the episode")
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise ShapeError(f"frame {index} must be {shape} uint8, got {frame.shape} {frame.dtype}")
        frames.append(np.require(frame, requirements=["C", "W"]))  # torch warns of arrays it could not write to
        if len(frames) == count:
            yield first, frames
            first, frames = first + count, []
    if frames:
        yield first, frames
    if first + len(frames) < promised:
        raise MissingDataError(
            f"wanted {promised} frames, decoding gave {first + len(frames)}; repair or drop the episode"
        )


def on_device(frame: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, 0..255."""
    return torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float()
