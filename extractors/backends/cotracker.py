"""CoTracker3 (offline) as a point tracker: weights in, clips and queries in, `Tracks` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.checkpoints import checkpoint_faults
from extractors.backends.cotracker_network import CPU_CHUNK, STRIDE, CoTrackerNetwork, FeatureMaps
from extractors.backends.devices import Precision, arithmetic, check_precision, choose_device, is_out_of_memory
from extractors.backends.linear import pack_linears
from extractors.errors import ConfigError, DeviceMemoryError, MissingDataError, ShapeError, WeightsError
from extractors.track_queries import check_queries
from extractors.types import Frames, Size, Tracks, check_pixels

VisibleBy = Literal["both", "visibility"]

NETWORK_SIZE: Size = (384, 512)
"""(height, width) that the network sees, whatever the frame's aspect ratio."""

_ADVICE = (
    "get scaled_offline.pth from the hub repository facebook/cotracker3 (licence CC-BY-NC-4.0, non-commercial) with "
    "`cuepack models fetch cotracker3` and name it with tracks.weights, or take tracks.backend=lucas-kanade, which "
    "needs no weights"
)

Result = TypeVar("Result")


def load_network(path: Path) -> CoTrackerNetwork:
    """The network with the weights of the published offline checkpoint, on the CPU, in eval mode.

    Raises:
        WeightsError: the file is absent, cannot be read whole, or holds another model.
    """
    if not path.is_file():
        raise WeightsError(f"weights for cotracker3 not found: {path}; {_ADVICE}")
    state = _read_state(path)
    with torch.device("meta"):  # no time spent on initial values
        network = CoTrackerNetwork()
    _check_state(state, network.state_dict(), path)
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False).eval()


class CoTracker3:
    """Point tracks by CoTracker3, offline variant (arXiv 2410.11831).

    Numbers are those of the published predictor. The work is less: patches are read once for all their offsets, and a
    clip's features serve both directions of time and every query set. Memory: features grow with the clip (8 MB a
    frame in fp32), and so do a query set's tokens; all else is done in chunks.
    """

    def __init__(
        self,
        *,
        weights: Path,
        device: str = "auto",
        precision: Precision = "fp32",
        iterations: int = 6,
        support_grid: int = 6,
        backward: bool = True,
        threshold: float = 0.6,
        visible_by: VisibleBy = "both",
        network_size: Size = NETWORK_SIZE,
        batch_frames: int | None = None,
        chunk_tokens: int | None = None,
    ) -> None:
        """Loads the weights.

        Args:
            weights: the checkpoint file.
            device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
            precision: "fp16" is mixed precision and needs CUDA; coordinates are fp32 all the same.
            iterations: refinements, 6 in the published predictor.
            support_grid: a grid of so many points a side on frame 0 is tracked along with the queries and dropped; the
                published predictor adds 6 x 6 to given queries. 0 for none.
            backward: queries of later frames are tracked with time reversed for the frames before them.
            threshold: visible means a score above this; 0.6 of the product is the paper's evaluation.
            visible_by: the score: "both" is visibility x confidence; "visibility" alone, with a threshold of 0.9, is
                the rule of the published predictor.
            network_size: (height, width) that frames are resized to, multiples of 4; trained at 384 x 512.
            batch_frames: frames encoded at once; none: 1 on a CPU, 32 else. Halved when memory runs out.
            chunk_tokens: points x frames handled at once; none: as fits the device. Halved when memory runs out.

        Raises:
            ConfigError: a setting is unknown or needs another device.
            WeightsError: see `load_network`.
        """
        self.device = choose_device(device)
        self.device_name = self.device.type
        on_cpu = self.device.type == "cpu"
        check_precision(precision, self.device, "tracks.precision")
        _check_settings(iterations, support_grid, threshold, visible_by, network_size)
        self.precision: str = precision
        self.iterations, self.support_grid, self.backward = iterations, support_grid, backward
        self.threshold, self.visible_by, self.network_size = threshold, visible_by, network_size
        self.batch_frames = batch_frames or (1 if on_cpu else 32)
        self.chunk_tokens = chunk_tokens or (CPU_CHUNK if on_cpu else 65_536)
        self.network = load_network(Path(weights)).to(self.device)
        self.network.fnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pack_linears(self.network)

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y) through `pixels`; see `PointTracker` and `EncodedClip.track`."""
        check_pixels(pixels)
        check_queries(queries, len(pixels), (int(pixels.shape[1]), int(pixels.shape[2])))
        return self.prepare(pixels).track(queries)

    def prepare(self, pixels: Frames) -> EncodedClip:
        """The clip's features, ready for any number of query sets.

        Args:
            pixels: (T, H, W, 3) uint8 RGB, iterated once.

        Raises:
            ShapeError: `pixels` is not RGB, or empty.
            MissingDataError: another number of frames came than `len(pixels)` said.
            DeviceMemoryError: the features do not fit, or not even one frame at a time can be encoded.
        """
        check_pixels(pixels)
        n_frames, batch = len(pixels), self.batch_frames
        maps = self._room(n_frames)
        for first, frames in _batches(pixels, batch):
            done = 0
            while done < len(frames):
                part = _attempt(partial(self._encode, frames[done : done + batch]))
                if part is None:
                    batch = self.halved(batch, 1, f"encoding one frame at {self.network_size}")
                    continue
                maps.put(first + done, part)
                done += part.n_frames
        return EncodedClip(self, maps, (int(pixels.shape[1]), int(pixels.shape[2])))

    def _room(self, n_frames: int) -> FeatureMaps:
        dtype = torch.float16 if self.precision == "fp16" else torch.float32
        maps = _attempt(partial(FeatureMaps.empty, n_frames, *self.network_size, dtype=dtype, device=self.device))
        if maps is None:
            raise DeviceMemoryError(
                f"{self.device} has no room for the features of {n_frames} frames (about 8 MB a frame, half in fp16); "
                "set tracks.window_frames, free the device, or set tracks.backend=lucas-kanade"
            )
        return maps

    def _encode(self, frames: list[NDArray[np.uint8]]) -> FeatureMaps:
        with arithmetic(self.precision, self.device):
            images = torch.cat([resize(torch.from_numpy(frame).to(self.device), self.network_size) for frame in frames])
            return self.network.encode(images.contiguous(memory_format=torch.channels_last))

    def halved(self, chunk: int, smallest: int, what: str) -> int:
        """The next chunk to try after memory ran out.

        Raises:
            DeviceMemoryError: `chunk` was the smallest that makes a difference.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if chunk <= smallest:
            raise DeviceMemoryError(
                f"{self.device} ran out of memory on {what} with cotracker3; set tracks.window_frames, take fewer "
                "points, free the device, or set tracks.backend=lucas-kanade"
            )
        return chunk // 2


class EncodedClip:
    """A clip's features at network size, ready for any number of query sets."""

    def __init__(self, tracker: CoTracker3, maps: FeatureMaps, size: Size) -> None:
        """`maps` made by `tracker` from frames of `size`."""
        self._tracker, self.maps, self.size = tracker, maps, size

    def track(self, queries: NDArray[np.float32]) -> Tracks:
        """Tracks of `queries` (N, 3) as (frame, x, y), in pixels of the frames that were prepared.

        In its own frame a query is visible, with scores of 1, and stays where it was posed. Queries of one call
        influence each other slightly: the transformer sees them all.

        Raises:
            ShapeError: `queries` have another shape, or one is not finite or outside the clip.
            DeviceMemoryError: the device's memory does not suffice for the smallest chunks.
        """
        n_frames = self.maps.n_frames
        check_queries(queries, n_frames, self.size)
        queries = np.asarray(queries, dtype=np.float32)
        found = self._both_ways(queries)
        xy, scores = found[..., :2] / self.enlarging, found[..., 2:]
        own = queries[:, 0].astype(int), np.arange(len(queries))
        xy[own], scores[own] = queries[:, 1:], 1.0
        visibility, confidence = scores[..., 0].copy(), scores[..., 1].copy()
        score = visibility if self._tracker.visible_by == "visibility" else visibility * confidence
        return Tracks(
            xy=xy,
            visibility=score > self._tracker.threshold,
            confidence=confidence,
            visibility_score=visibility,
            queries=queries,
        )

    @property
    def enlarging(self) -> NDArray[np.float32]:
        """Network pixels per frame pixel, (x, y): the resize keeps the corner pixels' centres (align_corners)."""
        (rows, columns), (height, width) = self._tracker.network_size, self.size
        return np.array([(columns - 1) / max(width - 1, 1), (rows - 1) / max(height - 1, 1)], np.float32)

    def _both_ways(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, N, 4): x, y in network pixels, visibility, confidence; frames before a query's own from the run back."""
        support = grid(self._tracker.support_grid, self._tracker.network_size)
        points = np.concatenate([queries * np.array([1.0, *self.enlarging], np.float32), support])
        found = self.run(points) if len(queries) else np.zeros((self.maps.n_frames, 0, 4), np.float32)
        if self._tracker.backward and queries[:, 0].any():
            earlier = np.arange(self.maps.n_frames)[:, None] < points[:, 0]
            found = np.where(earlier[..., None], self.run(points, backward=True), found)
        return found[:, : len(queries)]

    def run(self, points: NDArray[np.float32], *, backward: bool = False) -> NDArray[np.float32]:
        """The network's own answer.

        Args:
            points: (N, 3) as (frame, x, y) in network pixels.
            backward: let time run backwards.

        Returns:
            (T, N, 4) float32, in the clip's order: x, y in network pixels, probability of visibility, confidence.
        """
        tracker, chunk = self._tracker, self._tracker.chunk_tokens
        smallest = min(self.maps.n_frames, len(points))
        while (found := _attempt(partial(self._run, points, backward, chunk))) is None:
            chunk = tracker.halved(chunk, smallest, f"{len(points)} points over {self.maps.n_frames} frames")
        return found

    def _run(self, points: NDArray[np.float32], backward: bool, chunk: int) -> NDArray[np.float32]:
        tracker = self._tracker
        network, queries = tracker.network, torch.from_numpy(points).to(tracker.device)
        with arithmetic(tracker.precision, tracker.device):
            support = network.support(self.maps, queries)
            states = network.refine(
                self.maps, support, queries, iterations=tracker.iterations, backward=backward, chunk=chunk
            )
            *_, state = states
            found = torch.cat([state.coords * STRIDE, state.logits.sigmoid()], dim=-1)
            array: NDArray[np.float32] = found.transpose(0, 1).cpu().numpy()
        return array


def resize(frame: Tensor, size: Size) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, *size) float32, 0..255, bilinear between the corner pixels' centres, no antialias."""
    image = frame.permute(2, 0, 1)[None].float()
    return F.interpolate(image, size, mode="bilinear", align_corners=True)


def grid(side: int, size: Size, *, frame: int = 0) -> NDArray[np.float32]:
    """The published predictor's grid: (side * side, 3) as (frame, x, y), row by row, on frames of `size`.

    A margin of a 64th of the width is kept on every side; a single point lies in the centre.
    """
    height, width = size
    margin = width / 64
    if side == 1:
        return np.array([[frame, width / 2, height / 2]], np.float32)
    x, y = (np.linspace(margin, length - margin, side) for length in (width, height))
    return np.stack([np.full(side * side, frame), np.tile(x, side), np.repeat(y, side)], axis=1).astype(np.float32)


def _batches(pixels: Frames, count: int) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
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


def _attempt(work: Callable[[], Result]) -> Result | None:
    """What `work` gives, or None where memory does not suffice."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _check_settings(iterations: int, support_grid: int, threshold: float, visible_by: str, size: Size) -> None:
    if iterations < 1 or support_grid < 0 or not 0.0 <= threshold < 1.0:
        raise ConfigError(
            "cotracker3 wants iterations >= 1, support_grid >= 0 and threshold in [0, 1), got "
            f"iterations={iterations} support_grid={support_grid} threshold={threshold}"
        )
    if visible_by not in get_args(VisibleBy):
        raise ConfigError(f"no visibility rule {visible_by!r}; choose one of {sorted(get_args(VisibleBy))}")
    if min(size) < 32 or size[0] % STRIDE or size[1] % STRIDE:
        raise ConfigError(f"cotracker3 wants a network size of multiples of {STRIDE}, 32 at least, got {size}")


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for files that are cut off, or no checkpoints
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint ({reason}); it may be cut off: {_ADVICE}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # as the published trainer saves it
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is no plain dict of tensors; {_ADVICE}")
    return state


def _check_state(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Raises WeightsError unless names and shapes agree and every number is finite."""
    if "time_emb" in state and tuple(state["time_emb"].shape) == (1, 16, 1110):
        raise WeightsError(f"{path} holds the online variant of cotracker3, wanted the offline one; {_ADVICE}")
    faults = checkpoint_faults(state, wanted)
    if faults:
        raise WeightsError(f"{path} is not scaled_offline.pth: {faults}; {_ADVICE}")
