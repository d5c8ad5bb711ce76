"""CoTracker3 (offline) as a point tracker: weights in, clips and queries in, `Tracks` out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.checkpoints import load_state, read_state
from extractors.backends.cotracker_network import CHANNELS, CPU_CHUNK, LEVELS, STRIDE, CoTrackerNetwork, FeatureMaps
from extractors.backends.devices import arithmetic
from extractors.backends.linear import pack_linears
from extractors.backends.network_tracker import EncodedClip, NetworkSettings, NetworkTracker, on_device
from extractors.errors import ConfigError, WeightsError
from extractors.track_queries import Posed
from extractors.types import Frames, Size

SupportFor = Literal["all", "explicit"]

NETWORK_SIZE: Size = (384, 512)
"""(height, width) that the network sees, whatever the frame's aspect ratio."""

_FILE = "scaled_offline.pth"

_ADVICE = (
    f"get {_FILE} from the hub repository facebook/cotracker3 (licence CC-BY-NC-4.0, non-commercial) with "
    "`cuepack models fetch cotracker3` and name it with tracks.weights, or take tracks.backend=lucas-kanade, which "
    "needs no weights"
)


def load_network(path: Path) -> CoTrackerNetwork:
    """The network with the weights of the published offline checkpoint, on the CPU, in eval mode.

    Raises:
        WeightsError: the file is absent, cannot be read whole, or holds another model.
    """
    if not path.is_file():
        raise WeightsError(f"weights for cotracker3 not found: {path}; {_ADVICE}")
    state = read_state(path, _ADVICE)
    if "time_emb" in state and tuple(state["time_emb"].shape) == (1, 16, 1110):
        raise WeightsError(f"{path} holds the online variant of cotracker3, wanted the offline one; {_ADVICE}")
    with torch.device("meta"):  # no time spent on initial values
        network = CoTrackerNetwork()
    load_state(network, state, path, _FILE, _ADVICE)
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class CoTrackerSettings(NetworkSettings):
    """How CoTracker3 tracks.

    Attributes:
        threshold: visible means a score above this; 0.6 of the product is the paper's evaluation.
        visible_by: the score: "both" is visibility x confidence; "visibility" alone, with a threshold of 0.9, is the
            rule of the published predictor.
        iterations: refinements, 6 in the published predictor.
        support_grid: a grid of so many points a side on frame 0 is tracked along with the queries and dropped; the
            published predictor adds 6 x 6 to given queries. 0 for none.
        support_for: "all" query sets, or "explicit" ones only: the published predictor tracks a grid alone.
        backward: queries of later frames are tracked with time reversed for the frames before them.
        network_size: (height, width) that frames are resized to, multiples of 4; trained at 384 x 512.
    """

    threshold: float = 0.6
    iterations: int = 6
    support_grid: int = 6
    support_for: SupportFor = "all"
    backward: bool = True
    network_size: Size = NETWORK_SIZE


class CoTracker3(NetworkTracker[FeatureMaps]):
    """Point tracks by CoTracker3, offline variant (arXiv 2410.11831).

    Numbers are those of the published predictor. The work is less: patches are read once for all their offsets, and a
    clip's features serve both directions of time and every query set. Memory: features grow with the clip (8 MB a
    frame in fp32), and so do a query set's tokens; all else is done in chunks.
    """

    name = "cotracker3"

    settings: CoTrackerSettings

    def __init__(self, weights: Path, settings: CoTrackerSettings) -> None:
        """Loads the weights.

        Args:
            weights: the checkpoint file.
            settings: how to track and to run the network.

        Raises:
            ConfigError: a setting is unknown or needs another device.
            WeightsError: see `load_network`.
        """
        super().__init__(settings, cpu_tokens=CPU_CHUNK, gpu_tokens=65_536)
        _check_settings(settings)
        self.settings = settings
        self.network = load_network(Path(weights)).to(self.device)
        self.network.fnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pack_linears(self.network)

    def prepare(self, pixels: Frames) -> CoTrackerClip:
        """The clip's features, ready for any number of query sets; see `encode_clip`."""
        return CoTrackerClip(self, self.encode_clip(pixels), (int(pixels.shape[1]), int(pixels.shape[2])))

    @property
    def frame_mb(self) -> float:
        """What a frame's features take in fp32, MB."""
        height, width = self.settings.network_size
        pixels = sum(height * width / (STRIDE << level) ** 2 for level in range(LEVELS))
        return 4 * CHANNELS * pixels / 1e6

    def room(self, n_frames: int) -> FeatureMaps:
        """Maps to be filled, of `n_frames` frames."""
        dtype = torch.float16 if self.precision == "fp16" else torch.float32
        return FeatureMaps.empty(n_frames, *self.settings.network_size, dtype=dtype, device=self.device)

    def encode(self, frames: list[NDArray[np.uint8]]) -> FeatureMaps:
        """Features of some frames, each (H, W, 3) uint8 RGB."""
        with arithmetic(self.precision, self.device):
            images = torch.cat([resize(on_device(frame, self.device), self.settings.network_size) for frame in frames])
            return self.network.encode(images.contiguous(memory_format=torch.channels_last))


class CoTrackerClip(EncodedClip[FeatureMaps]):
    """A clip's features at network size; queries of one call influence each other: the transformer sees them all."""

    def __init__(self, tracker: CoTracker3, maps: FeatureMaps, size: Size) -> None:
        """`maps` made by `tracker` from frames of `size`."""
        super().__init__(tracker, maps, size)
        self._tracker = tracker

    @property
    def enlarging(self) -> NDArray[np.float32]:
        """Network pixels per frame pixel, (x, y): the resize keeps the corner pixels' centres (align_corners)."""
        (rows, columns), (height, width) = self._tracker.settings.network_size, self.size
        return np.array([(columns - 1) / max(width - 1, 1), (rows - 1) / max(height - 1, 1)], np.float32)

    def follow(self, queries: NDArray[np.float32], *, posed: Posed) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `EncodedClip.follow`; frames before a query's own come from the run back."""
        alone = posed == "grid" and self._tracker.settings.support_for == "explicit"
        support = grid(0 if alone else self._tracker.settings.support_grid, self._tracker.settings.network_size)
        points = np.concatenate([queries * np.array([1.0, *self.enlarging], np.float32), support])
        found = self.run(points) if len(queries) else np.zeros((self.maps.n_frames, 0, 4), np.float32)
        if self._tracker.settings.backward and queries[:, 0].any():
            earlier = np.arange(self.maps.n_frames)[:, None] < points[:, 0]
            found = np.where(earlier[..., None], self.run(points, backward=True), found)
        found = found[:, : len(queries)]
        return found[..., :2] / self.enlarging, found[..., 2:]

    def run(self, points: NDArray[np.float32], *, backward: bool = False) -> NDArray[np.float32]:
        """The network's own answer.

        Args:
            points: (N, 3) as (frame, x, y) in network pixels.
            backward: let time run backwards.

        Returns:
            (T, N, 4) float32, in the clip's order: x, y in network pixels, probability of visibility, confidence.
        """
        tracker, n_frames = self._tracker, self.maps.n_frames
        work, smallest = partial(self._run, points, backward), min(n_frames, len(points))
        what = f"{len(points)} points over {n_frames} frames"
        return tracker.memory.fit(work, tracker.chunk_tokens, smallest, what)[0]

    def _run(self, points: NDArray[np.float32], backward: bool, chunk: int) -> NDArray[np.float32]:
        tracker = self._tracker
        network, queries = tracker.network, torch.from_numpy(points).to(tracker.device)
        with arithmetic(tracker.precision, tracker.device):
            support = network.support(self.maps, queries)
            states = network.refine(
                self.maps, support, queries, iterations=tracker.settings.iterations, backward=backward, chunk=chunk
            )
            *_, state = states
            found = torch.cat([state.coords * STRIDE, state.logits.sigmoid()], dim=-1)
            array: NDArray[np.float32] = found.transpose(0, 1).cpu().numpy()
        return array


def resize(image: Tensor, size: Size) -> Tensor:
    """(1, 3, H, W) -> (1, 3, *size), bilinear between the corner pixels' centres, no antialias."""
    return F.interpolate(image, size, mode="bilinear", align_corners=True)


def grid(side: int, size: Size, *, frame: int = 0) -> NDArray[np.float32]:
    """The published predictor's grid: (side * side, 3) as (frame, x, y), row by row, on frames of `size`.

    A margin of a 64th of the width is kept on every side; a single point is put at the centre.
    """
    height, width = size
    margin = width / 64
    if side == 1:
        return np.array([[frame, width / 2, height / 2]], np.float32)
    x, y = (np.linspace(margin, length - margin, side) for length in (width, height))
    return np.stack([np.full(side * side, frame), np.tile(x, side), np.repeat(y, side)], axis=1).astype(np.float32)


def _check_settings(settings: CoTrackerSettings) -> None:
    if settings.iterations < 1 or settings.support_grid < 0:
        raise ConfigError(
            "cotracker3 wants iterations >= 1 and support_grid >= 0, got "
            f"iterations={settings.iterations} support_grid={settings.support_grid}"
        )
    if settings.support_for not in get_args(SupportFor):
        raise ConfigError(f"no support for {settings.support_for!r}; choose one of {sorted(get_args(SupportFor))}")
    size = settings.network_size
    if min(size) < 32 or size[0] % STRIDE or size[1] % STRIDE:
        raise ConfigError(f"cotracker3 wants a network size of multiples of {STRIDE}, 32 at least, got {size}")
