"""Video-Depth-Anything as a depth estimator: weights in, clips in, `Depth` out, every frame encoded once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from extractors.advance import advance
from extractors.backends.checkpoints import load_state, read_state
from extractors.backends.device_memory import DeviceMemory, attempt
from extractors.backends.devices import Precision, arithmetic, check_precision, choose_device, is_out_of_memory
from extractors.backends.linear import pack_linears
from extractors.backends.vda_network import PATCH, SHAPES, FrameFeatures, ModelSize, VideoDepthNetwork
from extractors.backends.vda_windows import LENGTH, Stitcher, Window, plan_windows, published_windows
from extractors.cuts import Cuts, scene_cuts
from extractors.errors import ConfigError, DeviceMemoryError, MissingDataError, ShapeError, WeightsError
from extractors.geometry import axis_matrix
from extractors.types import Depth, Frames, Size, check_pixels

# ImageNet statistics, those the encoder was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


REPEATED_SLOT_COST = 0.02
"""What a slot that repeats the last frame costs beside a frame: it is mixed, and neither encoded nor decoded.
Operations of vits counted with torch's FlopCounterMode: 0.024 at 98 pixels, 0.021 at 140."""

_MOST_FRAMES = 32
_CPU_PATCHES = 1024
"""Patches that a CPU takes at once: with more, its maps leave the cache (whole frames at the default size: one)."""


def published_file(size: ModelSize, *, metric: bool = False) -> str:
    """Name of the published weights file of one model size."""
    return f"{'metric_' if metric else ''}video_depth_anything_{size}.pth"


def network_size(height: int, width: int, input_size: int = 518) -> Size:
    """(height, width) that the network sees: the shorter side near `input_size`, both multiples of 14.

    Very elongated frames get a smaller `input_size`, as published; never less than one patch.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > 1.78:
        input_size = max(PATCH, round(int(input_size * 1.777 / ratio) / PATCH) * PATCH)
    scale = max(input_size / height, input_size / width)

    def fitted(side: int) -> int:
        size = round(side * scale / PATCH) * PATCH
        return size if size >= input_size else math.ceil(side * scale / PATCH) * PATCH

    return fitted(height), fitted(width)


def load_network(path: Path, size: ModelSize, *, metric: bool = False) -> VideoDepthNetwork:
    """The network with the weights of a published checkpoint, on the CPU, in eval mode.

    Raises:
        WeightsError: the file is absent, cannot be read whole, or holds another model.
    """
    published = published_file(size, metric=metric)
    if not path.is_file():
        raise WeightsError(f"weights for video-depth-anything {size} not found: {path}; {_advice(published)}")
    other = published_file(size, metric=not metric)
    if path.name == other:
        kind, setting = ("metric", "true") if not metric else ("relative", "false")
        raise WeightsError(
            f"{path} is by its name the {kind} variant, wanted {published}; set depth.metric to {setting}, "
            f"or {_advice(published)}"
        )
    state = read_state(path, _advice(published))
    token = state.get("pretrained.cls_token")
    found = next((name for name, shape in SHAPES.items() if token is not None and token.shape[-1] == shape.width), size)
    if found != size:
        raise WeightsError(
            f"{path} holds {found}, wanted {published}; set depth.model to {found}, or {_advice(published)}"
        )
    with torch.device("meta"):  # no time spent on initial values
        network = VideoDepthNetwork(size)
    load_state(network, state, path, published, _advice(published))
    return network


class VideoDepthAnything:
    """Relative inverse depth, or metres with the metric weights, by Video-Depth-Anything (arXiv 2501.12375).

    The numbers are those of the published long-video scheme (32 frames a window, scale and shift fitted between
    windows); the work is less: each frame is encoded once, the frames repeated behind the end share one encoding,
    maps that no one sees are not decoded, and windows of several clips can share a batch. A clip is first split at
    scene cuts, each scene on its own scale.

    Memory does not grow with the clip, save for the result: features of one batch of windows, and one window of maps
    at source size.
    """

    def __init__(
        self,
        size: ModelSize = "vits",
        *,
        weights: Path,
        metric: bool = False,
        device: str = "auto",
        precision: Precision = "fp32",
        input_size: int = 518,
        batch_frames: int | None = None,
        batch_windows: int | None = None,
        compile_network: bool = False,
    ) -> None:
        """Loads the weights.

        Args:
            size: model size; vits is Apache-2.0, the others are for non-commercial use.
            weights: the checkpoint file.
            metric: the weights are of the metric variant: no scale and shift between windows, metres out.
            device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
            precision: "fp16" is mixed precision and needs CUDA.
            input_size: shorter side that the network sees, pixels; a multiple of 14.
            batch_frames: frames encoded or decoded at once; none: 32, on a CPU so few that they fit its cache. Halved
                when memory runs out.
            batch_windows: windows mixed at once by `estimate_many`; none: 1 on a CPU, 4 else.
            compile_network: compile the encoder (CUDA only); the first clip then takes minutes.

        Raises:
            ConfigError: a setting is unknown or needs another device.
            WeightsError: see `load_network`.
        """
        self.device = choose_device(device)
        on_cpu = self.device.type == "cpu"
        check_precision(precision, self.device, "depth.precision")
        _check_settings(size, input_size, on_cpu=on_cpu, compiled=compile_network)
        self.size, self.metric, self.input_size = size, metric, input_size
        self.precision: str = precision
        self._memory = DeviceMemory(
            self.device,
            f"video-depth-anything {size}",
            f"lower depth.input_size (now {input_size}), take a smaller depth.model, or free the device",
        )
        self._batch_frames = batch_frames
        self._batch_windows = batch_windows or (1 if on_cpu else 4)
        self._network = load_network(Path(weights), size, metric=metric).to(self.device)
        pack_linears(self._network)
        if on_cpu:
            self._network.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile_network:
            self._network.pretrained.compile(dynamic=True)

    def estimate(self, pixels: Frames, *, size: Size) -> Depth:
        """Depth of one clip.

        Args:
            pixels: (T, H, W, 3) uint8 RGB, iterated twice.
            size: (height, width) of the result; maps are made at source size as published, then area-averaged.

        Returns:
            `relative` or `metric` depth; its report says what was run.

        Raises:
            ShapeError: `pixels` is not RGB, or empty.
            MissingDataError: fewer frames came than `len(pixels)` said.
            DeviceMemoryError: not even one frame at a time fits.
        """
        return self.estimate_many([pixels], size=size)[0]

    def estimate_many(self, clips: Sequence[Frames], *, size: Size) -> list[Depth]:
        """Depth of several clips whose windows share batches.

        The batch moves values by rounding only (1e-5 of their range). One clip that does not fit fails all: fall back
        on `estimate` to find it.
        """
        runs = [_Clip(pixels, self._settings(), size) for pixels in clips]
        self._frames_at_once = self._decoded_at_once = self._batch_frames or self._most_frames(runs)
        work = [(scene, window) for clip in runs for scene in clip.scenes for window in scene.windows]
        done = 0
        with arithmetic(self.precision, self.device), self._memory_errors("joining windows at source size"):
            for batch in _grouped(work, self._batch_windows):
                self._encode(batch)
                for (scene, _), raw in zip(batch, self._window_depth(batch), strict=True):
                    scene.finish(raw)
                for scene, window in dict(batch).items():  # the last window of each scene
                    scene.forget(window)
                done += len(batch)
                advance(done, len(work))
        return [clip.depth() for clip in runs]

    def padding(self, n_frames: Sequence[int]) -> float:
        """Share of the work that is for slots behind a clip's end, scene cuts aside; see `REPEATED_SLOT_COST`."""
        windows = [(length, window) for length in n_frames for window in plan_windows(length)]
        repeated = REPEATED_SLOT_COST * sum(max(0, window.start + LENGTH - length) for length, window in windows)
        return repeated / (repeated + sum(n_frames))

    def _most_frames(self, runs: Sequence[_Clip]) -> int:
        if self.device.type != "cpu":
            return _MOST_FRAMES
        patches = max((math.prod(clip.network_size) // PATCH**2 for clip in runs), default=1)
        return min(max(_CPU_PATCHES // patches, 1), _MOST_FRAMES)

    def _settings(self) -> dict[str, Any]:
        return {
            "backend": "video-depth-anything",
            "model": self.size,
            "metric": self.metric,
            "input_size": self.input_size,
            "precision": self.precision,
            "device": self.device.type,
        }

    def _encode(self, batch: Sequence[tuple[_Scene, Window]]) -> None:
        """Features of all frames that the batch sees for the first time."""
        queue = [(scene, index, scene.read(index)) for scene, window in batch for index in scene.claim(window)]
        while queue:
            size = batch[0][0].clip.network_size
            frames = [frame for _, _, frame in queue]
            features, self._frames_at_once = self._memory.fit(
                partial(self._features, frames, size), self._frames_at_once, 1, f"encoding one frame at {size}"
            )
            for (scene, index, _), feature in zip(queue, features, strict=False):
                scene.features[index] = feature
            queue = queue[len(features) :]

    def _features(self, frames: Sequence[Tensor], size: Size, count: int) -> list[FrameFeatures]:
        """Of the first `count` frames."""
        images = torch.cat([prepare(frame.to(self.device), size) for frame in frames[:count]])
        return self._network.frame_features(images).split()

    def _window_depth(self, batch: Sequence[tuple[_Scene, Window]]) -> list[Tensor]:
        """Raw maps of the decoded slots of each window, (k, H', W') float32 at network size."""
        while (raw := attempt(partial(self._raw_depth, batch))) is None:
            if len(batch) > 1:
                half = len(batch) // 2
                return self._window_depth(batch[:half]) + self._window_depth(batch[half:])
            size = batch[0][0].clip.network_size
            self._decoded_at_once = self._memory.halved(self._decoded_at_once, 1, f"one window at {size}")
        return raw

    def _raw_depth(self, batch: Sequence[tuple[_Scene, Window]]) -> list[Tensor]:
        features = [scene.features[index] for scene, window in batch for index in window.frames]
        decoded_slots = [window.decoded for _, window in batch]
        depth = self._network.window_depth(features, decoded_slots, batch=self._decoded_at_once)
        return list(torch.split(depth, [len(slots) for slots in decoded_slots]))

    @contextlib.contextmanager
    def _memory_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except DeviceMemoryError:
            raise
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._memory.error(what) from error
            raise


class _Clip:
    """One clip on its way through the network."""

    def __init__(self, pixels: Frames, settings: dict[str, Any], size: Size) -> None:
        n_frames, *source = check_pixels(pixels)
        self.settings = settings
        self.cuts: Cuts = scene_cuts(pixels)
        if self.cuts.n_frames != n_frames:
            raise _incomplete(n_frames, self.cuts.n_frames)
        self.values = np.empty((n_frames, *size), np.float32)
        self.frames = _Reader(pixels)
        self.network_size = network_size(source[0], source[1], settings["input_size"])
        self.source_size: Size = (source[0], source[1])
        self.scenes = [_Scene(self, first, past) for first, past in self.cuts.scenes]

    def depth(self) -> Depth:
        """The result, once every window went through."""
        n_frames, n_published = len(self.values), sum(published_windows(scene.n_frames) for scene in self.scenes)
        report = {
            **self.settings,
            "network_size": list(self.network_size),
            "cuts": list(self.cuts.starts[1:]),
            "blank_frames": list(self.cuts.blank),
            "windows": sum(len(scene.windows) for scene in self.scenes),
            "windows_published": n_published,
            "encoded_per_frame": sum(scene.n_encoded for scene in self.scenes) / n_frames,
            "encoded_per_frame_published": n_published * LENGTH / n_frames,
            "scale_shift": [[list(pair) for pair in scene.stitcher.scale_shift] for scene in self.scenes],
        }
        return Depth(self.values, "metric" if self.settings["metric"] else "relative", report)


class _Reader:
    """Frames of a clip in order, as (1, H, W, 3) tensors."""

    def __init__(self, pixels: Frames) -> None:
        self._frames = iter(pixels)
        self._promised, self._shape = len(pixels), tuple(pixels.shape[1:])
        self._count = 0

    def read(self, index: int) -> Tensor:
        if index != self._count:
            raise AssertionError(f"frames are read in order: wanted {index}, next is {self._count}")
        frame = next(self._frames, None)
        if frame is None:
            raise _incomplete(self._promised, self._count)
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ShapeError(f"frame {index} must be {self._shape} uint8, got {frame.shape} {frame.dtype}")
        self._count += 1
        return torch.from_numpy(np.ascontiguousarray(frame))[None]


@dataclass(eq=False)
class _Scene:
    """One scene of a clip: its windows, the features they share, and where the maps go."""

    clip: _Clip
    first: int
    past: int
    features: dict[int, FrameFeatures] = field(default_factory=dict)
    n_encoded: int = 0

    def __post_init__(self) -> None:
        self.n_frames = self.past - self.first
        self.windows = plan_windows(self.n_frames)
        self.stitcher = Stitcher(self.windows, align=not self.clip.settings["metric"])
        self._n_finished = 0

    def claim(self, window: Window) -> range:
        """Frames of the window that no window before it has claimed."""
        claimed = range(self.n_encoded, max(self.n_encoded, max(window.frames) + 1))
        self.n_encoded = claimed.stop
        return claimed

    def read(self, index: int) -> Tensor:
        """Frame `index` of the scene, (1, H, W, 3) uint8."""
        return self.clip.frames.read(self.first + index)

    def finish(self, raw: Tensor) -> None:
        """Resizes the maps of the next window to source size as published, joins them, averages to packet size."""
        at_source = F.interpolate(raw[:, None], self.clip.source_size, mode="bilinear", align_corners=True)[:, 0]
        maps = resize_area(self.stitcher.add(at_source), self.clip.values.shape[1:])
        start = self.first + self._n_finished
        self._n_finished += len(maps)
        self.clip.values[start : start + len(maps)] = maps.cpu().numpy()

    def forget(self, window: Window) -> None:
        """Drops the features that no later window sees."""
        kept = window.kept if window is not self.windows[-1] else ()
        self.features = {index: self.features[index] for index in self.features if index in kept}


def prepare(frames: Tensor, size: Size) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, *size) float32, cubic (a = -0.75, no antialias, not clipped), normalised."""
    images = frames.permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bicubic", align_corners=False)
    mean = torch.tensor(_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(_STD, device=images.device)[:, None, None]
    return (images - mean) / std


def resize_area(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) -> (N, *size): area averaging along an axis that shrinks, bilinear along one that grows."""
    if maps.shape[1] != size[0]:
        maps = torch.from_numpy(axis_matrix(maps.shape[1], size[0])).to(maps) @ maps
    if maps.shape[2] != size[1]:
        maps = maps @ torch.from_numpy(axis_matrix(maps.shape[2], size[1])).to(maps).T
    return maps


def _grouped(work: Iterable[tuple[_Scene, Window]], count: int) -> Iterator[list[tuple[_Scene, Window]]]:
    """Up to `count` windows of one network size at a time."""
    group: list[tuple[_Scene, Window]] = []
    for scene, window in work:
        if group and (len(group) == count or scene.clip.network_size != group[0][0].clip.network_size):
            yield group
            group = []
        group.append((scene, window))
    if group:
        yield group


def _incomplete(promised: int, decoded: int) -> MissingDataError:
    return MissingDataError(f"wanted {promised} frames, decoding gave {decoded}; repair or drop the episode")


def _check_settings(size: str, input_size: int, *, on_cpu: bool, compiled: bool) -> None:
    if size not in get_args(ModelSize):
        raise ConfigError(f"no video-depth-anything model {size!r}; choose one of {sorted(get_args(ModelSize))}")
    if input_size < PATCH or input_size % PATCH:
        raise ConfigError(f"depth.input_size must be a positive multiple of {PATCH}, got {input_size}")
    if on_cpu and compiled:
        raise ConfigError("compiling the network needs a CUDA device; leave it off")


def _advice(file: str) -> str:
    return (
        f"get {file} (`cuepack models list` names its licence and repository) and name it with depth.weights, or take "
        "--profile cpu, which needs no weights"
    )
