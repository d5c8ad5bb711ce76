"""TAPIR, BootsTAPIR configuration, as a point tracker: weights in, clips and queries in, `Tracks` out.

Arithmetic is checked against numbers of the published model with seeded weights. Tracking quality with the published
weights is unproven here: no machine of this project has loaded them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.checkpoints import load_state, read_state
from extractors.backends.devices import arithmetic
from extractors.backends.network_tracker import EncodedClip, NetworkSettings, NetworkTracker, on_device
from extractors.backends.tapir_features import COARSE_STRIDE, SIDE, FeatureMaps
from extractors.backends.tapir_network import CPU_CHUNK, ITERATIONS, TEMPERATURE, TapirNetwork, pyramid
from extractors.errors import ConfigError, WeightsError
from extractors.track_queries import Posed
from extractors.types import Frames, Size

OFFLINE_FILE, CAUSAL_FILE = "bootstapir_checkpoint_v2.pt", "causal_bootstapir_checkpoint.pt"
"""Published files; names and shapes in them are the same, so the caller must say which one it loads."""


def load_network(path: Path, *, causal: bool = False) -> TapirNetwork:
    """The network with the weights of a published PyTorch checkpoint, on the CPU, in eval mode.

    Args:
        path: the file.
        causal: it is the online one.

    Raises:
        WeightsError: the file is absent, cannot be read whole, or holds another model.
    """
    file, name = (CAUSAL_FILE, "tapir-online") if causal else (OFFLINE_FILE, "tapir")
    advice = (
        f"get {file} (licence Apache-2.0) from DeepMind's bucket dm-tapnet, folder bootstap, with `cuepack models "
        f"fetch {name}` and name it with tracks.weights, or take tracks.backend=lucas-kanade, which needs no weights"
    )
    if not path.is_file():
        raise WeightsError(f"weights for tapir not found: {path}; {advice}")
    state = read_state(path, advice)
    with torch.device("meta"):  # no time spent on initial values
        network = TapirNetwork(causal=causal)
    load_state(network, state, path, file, advice)
    return network


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A clip's features at each resolution, the first of them 256 x 256."""

    levels: tuple[FeatureMaps, ...]

    @property
    def n_frames(self) -> int:
        """T."""
        return self.levels[0].n_frames

    def put(self, first: int, part: Pyramid) -> None:
        """Stores the maps of some frames from frame `first` on."""
        for whole, some in zip(self.levels, part.levels, strict=True):
            whole.put(first, some)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapirSettings(NetworkSettings):
    """How TAPIR tracks.

    Attributes:
        threshold: visible means a score above this; 0.5 of the product is the published rule.
        visible_by: the score: "both" is (1 - occluded) x (1 - far off), the published one; "visibility" the first.
        causal: the weights are those of the online variant.
        network_size: (height, width) that frames are resized to, multiples of 8, 256 at least; 256 x 256 gave the
            published numbers, 512 x 512 is refined on two levels and costs about five times as much.
        iterations: refinements per level, 4 in the published model.
        temperature: of the first guess's softmax, see `tapir_network.TEMPERATURE`.
    """

    threshold: float = 0.5
    causal: bool = False
    network_size: Size = (SIDE, SIDE)
    iterations: int = ITERATIONS
    temperature: float = TEMPERATURE


class Tapir(NetworkTracker[Pyramid]):
    """Point tracks by BootsTAPIR (arXiv 2306.08637, 2402.00847).

    Numbers are those of the published PyTorch model. The work is less: each cell around a guess is read and multiplied
    once for all 49 positions of a patch, and a clip's features serve every query set. Queries do not influence each
    other, so that memory does not grow with them; features grow with the clip (3.4 MB a frame in fp32 at 256 x 256).
    """

    name = "tapir"

    settings: TapirSettings

    def __init__(self, weights: Path, settings: TapirSettings) -> None:
        """Loads the weights.

        Args:
            weights: the checkpoint file.
            settings: how to track and to run the network.

        Raises:
            ConfigError: a setting is unknown or needs another device.
            WeightsError: see `load_network`.
        """
        super().__init__(settings, cpu_tokens=CPU_CHUNK, gpu_tokens=16 * CPU_CHUNK)
        iterations, temperature, size = settings.iterations, settings.temperature, settings.network_size
        if iterations < 1 or temperature <= 0:
            raise ConfigError(f"tapir wants iterations >= 1 and temperature > 0, got {iterations} and {temperature}")
        if min(size) < SIDE or any(side % COARSE_STRIDE for side in size):
            raise ConfigError(
                f"tapir wants a network size of multiples of {COARSE_STRIDE}, {SIDE} at least, got {size}"
            )
        self.settings = settings
        self.resolutions = pyramid(size)
        self.network = load_network(Path(weights), causal=settings.causal).to(self.device)
        for encoder in (self.network.resnet_torch, self.network.extra_convs):
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(self, pixels: Frames) -> TapirClip:
        """The clip's features, ready for any number of query sets; see `encode_clip`."""
        return TapirClip(self, self.encode_clip(pixels), (int(pixels.shape[1]), int(pixels.shape[2])))

    @property
    def frame_mb(self) -> float:
        """What a frame's features take in fp32, MB: 13 numbers a pixel of each resolution."""
        return 4 * 13 * sum(height * width for height, width in self.resolutions) / 1e6

    def room(self, n_frames: int) -> Pyramid:
        """Maps to be filled, of `n_frames` frames."""
        dtype = torch.float16 if self.precision == "fp16" else torch.float32
        return Pyramid(
            tuple(
                FeatureMaps.empty(n_frames, resolution, dtype=dtype, device=self.device)
                for resolution in self.resolutions
            )
        )

    def encode(self, frames: list[NDArray[np.uint8]]) -> Pyramid:
        """Features of some frames, each (H, W, 3) uint8 RGB."""
        with arithmetic(self.precision, self.device):
            images = torch.cat([resize(on_device(frame, self.device), self.settings.network_size) for frame in frames])
            images = images / 255 * 2 - 1
            return Pyramid(tuple(self.network.encode(images, resolution) for resolution in self.resolutions))


class TapirClip(EncodedClip[Pyramid]):
    """A clip's features, ready for any number of query sets."""

    def __init__(self, tracker: Tapir, maps: Pyramid, size: Size) -> None:
        """`maps` made by `tracker` from frames of `size`."""
        super().__init__(tracker, maps, size)
        self._tracker = tracker

    def follow(self, queries: NDArray[np.float32], *, posed: Posed) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `EncodedClip.follow`; queries, wherever posed, are independent of each other."""
        n_frames, tokens = self.maps.n_frames, self._tracker.chunk_tokens
        found = np.empty((n_frames, len(queries), 4), np.float32)
        points = queries.copy()
        points[:, 1:] = self.in_network(queries[:, 1:])
        done = 0
        while done < len(points):
            waiting = points[done:]

            def work(chunk: int, waiting: NDArray[np.float32] = waiting) -> NDArray[np.float32]:
                return self._run(waiting[: max(chunk // n_frames, 1)], chunk)

            part, tokens = self._tracker.memory.fit(work, tokens, n_frames, f"one point over {n_frames} frames")
            found[:, done : done + part.shape[1]] = part
            done += part.shape[1]
        return self.in_frame(found[..., :2]), found[..., 2:]

    def in_network(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels of the frame, the first one's centre at 0, in 256-pixels, where a pixel's centre is at a half."""
        return (xy + np.float32(0.5)) / self._pixel

    def in_frame(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back."""
        return points * self._pixel - np.float32(0.5)

    @property
    def _pixel(self) -> NDArray[np.float32]:
        """Pixels of the frame per 256-pixel, (x, y)."""
        height, width = self.size
        return np.array([width / SIDE, height / SIDE], np.float32)

    def _run(self, points: NDArray[np.float32], chunk: int) -> NDArray[np.float32]:
        """(n, 3) as (frame, x, y) in 256-pixels -> (T, n, 4): x, y, probability of visibility, confidence."""
        tracker = self._tracker
        with arithmetic(tracker.precision, tracker.device):
            state = tracker.network(
                (self.maps.levels[0], *self.maps.levels),
                torch.from_numpy(points).to(tracker.device),
                temperature=tracker.settings.temperature,
                iterations=tracker.settings.iterations,
                chunk=chunk,
            )
            found = torch.cat([state.points, 1 - state.logits.sigmoid()], dim=-1)
            array: NDArray[np.float32] = found.transpose(0, 1).float().cpu().numpy()
        return array


def resize(image: Tensor, size: Size) -> Tensor:
    """(1, 3, H, W) -> (1, 3, *size), edges on edges: bilinear up, an area-wide triangle down, so that nothing aliases.

    The published model is given videos at its own size; upstream's demos leave the choice of a filter to a library.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
