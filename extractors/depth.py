"""Depth of every pixel: estimated by a model, or recorded by a depth camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import LengthMismatchError, MissingDataError, ShapeError
from extractors.types import Depth, DepthKind, Episode, Frames, Size

CONVENTIONS: dict[DepthKind, dict[str, str]] = {
    "relative": {
        "units": "1 (inverse depth on the model's own scale)",
        "description": "affine-invariant inverse depth, larger is nearer; scale and shift to 1/z in 1/m are unknown",
    },
    "metric": {
        "units": "m",
        "description": "depth along the optical axis (z, not the ray's length), metres; 0 where there is no reading",
    },
}
"""Attributes `units` and `description` of a packet's depth maps, by kind."""


class DepthEstimator(Protocol):
    """Estimates the depth of one clip from its pixels."""

    @property
    def precision(self) -> str:
        """Arithmetic of the network, "fp32" or "fp16"."""
        ...

    @property
    def device_name(self) -> str:
        """Where it runs, "cpu" or "cuda"."""
        ...

    def estimate(self, pixels: Frames, *, size: Size) -> Depth:
        """Depth of `pixels` (T, H, W, 3) uint8 RGB, area-averaged (bilinear where larger) to `size` (height, width)."""
        ...


def _video_depth_anything(**settings: Any) -> DepthEstimator:
    from extractors.backends.video_depth_anything import VideoDepthAnything

    return VideoDepthAnything(**settings)


DEPTH_ESTIMATORS: dict[str, Callable[..., DepthEstimator]] = {"video-depth-anything": _video_depth_anything}
"""Name -> builder; the builder's keyword arguments are the backend's settings."""


def recorded_depth(episode: Episode, *, size: Size, same_surface: float = 0.05) -> Depth:
    """Metric depth of the episode's depth camera at packet size.

    Area averaging, with two exceptions where a plain average would invent surfaces: pixels without a reading do not
    count (a packet pixel has a reading when readings cover at least half of it), and where readings differ by more than
    `same_surface` (an edge), only those near the weighted median of the packet pixel are averaged, so that the pixel
    lies on the surface which covers most of it and not in the air between two.

    Args:
        episode: with `recorded_depth`, metres along z, 0 (or not finite, or negative) without reading.
        size: (height, width) of the result.
        same_surface: relative difference of depth below which two readings are one surface.

    Returns:
        `metric` depth; 0 where there is no reading. Its report holds `coverage`, the share of pixels with a reading.

    Raises:
        MissingDataError: the episode has no recorded depth.
        LengthMismatchError: it has another number of depth maps than of frames.
        ShapeError: a depth map is not (H, W).
    """
    maps = episode.recorded_depth
    if maps is None:
        raise MissingDataError(
            f"{episode.episode_id}: wanted recorded depth, the source has none for camera {episode.camera_name!r}; "
            "set depth.backend to video-depth-anything or off"
        )
    values = np.zeros((episode.n_frames, *size), np.float32)
    count = 0
    for depth in maps:
        if count < len(values):
            values[count] = average_readings(depth, size, same_surface=same_surface)
        count += 1
    if count != len(values):
        raise LengthMismatchError(
            f"{episode.episode_id}: {len(values)} frames but {count} recorded depth maps; repair or drop the episode"
        )
    coverage = float(np.mean(values > 0)) if values.size else 0.0
    return Depth(values, "metric", {"backend": "recorded", "coverage": round(coverage, 4)})


def average_readings(depth: NDArray[np.floating], size: Size, *, same_surface: float = 0.05) -> NDArray[np.float32]:
    """One depth map (H, W) at another size; see `recorded_depth`."""
    if depth.ndim != 2:
        raise ShapeError(f"a depth map must be (H, W), got {depth.shape}")
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
    if depth.shape == size:
        return depth
    rows, row_weights = axis_taps(depth.shape[0], size[0])
    columns, column_weights = axis_taps(depth.shape[1], size[1])
    # (ky * kx, H', W'): the readings under each packet pixel, and how much of it each covers
    readings = depth[rows.T[:, None, :, None], columns.T[None, :, None, :]].reshape(-1, *size)
    weights = row_weights.T[:, None, :, None] * column_weights.T[None, :, None, :]
    weights = np.where(readings > 0, weights.reshape(-1, *size), 0)
    covered = weights.sum(0)

    nearest = np.where(weights > 0, readings, np.inf).min(0)
    edge = (covered > 0) & (np.where(weights > 0, readings, 0).max(0) > (1 + same_surface) * nearest)
    median = _weighted_median(readings[:, edge], weights[:, edge])
    weights[:, edge] *= np.abs(readings[:, edge] - median) <= same_surface * median

    total = weights.sum(0)
    return np.where(covered >= 0.5, (readings * weights).sum(0) / np.maximum(total, 1e-6), 0).astype(np.float32)


def _weighted_median(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along axis 0, the value at which half of the weight is reached."""
    order = np.argsort(values, axis=0)
    reached = np.cumsum(np.take_along_axis(weights, order, 0), axis=0)
    at = (reached >= 0.5 * reached[-1:]).argmax(0)
    median: NDArray[np.float32] = np.take_along_axis(np.take_along_axis(values, order, 0), at[None], 0)[0]
    return median


def axis_taps(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source pixels and weights of each target pixel along one axis, with x' = (x + 0.5) * n_out / n_in - 0.5.

    Returns:
        indices (n_out, k) and weights (n_out, k) that sum to 1: the covered area when the axis shrinks, bilinear with
        the border repeated when it grows.
    """
    step = n_in / n_out
    if n_out >= n_in:
        position = np.clip((np.arange(n_out) + 0.5) * step - 0.5, 0, n_in - 1)
        low = np.minimum(position.astype(np.intp), max(n_in - 2, 0))
        high_weight = position - low
        indices = np.stack([low, np.minimum(low + 1, n_in - 1)], axis=1)
        return indices, np.stack([1 - high_weight, high_weight], axis=1).astype(np.float32)
    start = np.arange(n_out) * step
    indices = start.astype(np.intp)[:, None] + np.arange(int(np.ceil(step)) + 1)
    covered = np.minimum(indices + 1, (start + step)[:, None]) - np.maximum(indices, start[:, None])
    weights = np.where(indices < n_in, np.maximum(covered, 0), 0) / step
    return np.minimum(indices, n_in - 1), weights.astype(np.float32)


def axis_matrix(n_in: int, n_out: int) -> NDArray[np.float32]:
    """`axis_taps` as a (n_out, n_in) matrix."""
    indices, weights = axis_taps(n_in, n_out)
    matrix = np.zeros((n_out, n_in), np.float32)
    np.add.at(matrix, (np.arange(n_out)[:, None], indices), weights)
    return matrix


@dataclass(frozen=True)
class Cuts:
    """Where a clip changes its scene.

    Attributes:
        starts: first frames of the scenes, starting with 0.
        blank: frames that show nothing (one colour), such as dropped black ones.
        n_frames: T.
    """

    starts: tuple[int, ...]
    blank: tuple[int, ...]
    n_frames: int

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """(first, past the last) frame of each scene."""
        return list(zip(self.starts, (*self.starts[1:], self.n_frames), strict=True))


def scene_cuts(pixels: Frames, *, min_change: float = 0.5, min_contrast: float = 3.0, burst: float = 3.0) -> Cuts:
    """Scene cuts of a clip, found on 32 x 24 thumbnails in one pass.

    A cut is a frame that does not correlate with the one before, while its neighbours do so clearly better. Blank
    frames are left out of the comparison, so a black frame inside a scene does not cut it; blank frames before the
    first picture are a scene of their own, so that the picture's scene starts with a picture.

    Args:
        pixels: (T, H, W, 3) uint8 RGB.
        min_change: 1 - correlation of two thumbnails at a cut.
        min_contrast: standard deviation of a thumbnail (of 255) below which the frame is blank.
        burst: at a cut the change is at least so many times the median change of the four steps around it.
    """
    thumbnails = np.stack([cv2.resize(np.asarray(frame), (32, 24), interpolation=cv2.INTER_AREA) for frame in pixels])
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    grey = thumbnails.mean(-1).reshape(len(thumbnails), -1)
    blank = grey.std(1) < min_contrast
    shown = np.flatnonzero(~blank)
    starts = [0]
    if len(shown) and shown[0] > 0:
        starts.append(int(shown[0]))
    change = _changes(flat[shown])
    for step in range(len(change)):
        around = np.concatenate([change[max(0, step - 2) : step], change[step + 1 : step + 3]])
        usual = float(np.median(around)) if len(around) else 0.0
        if change[step] >= min_change and change[step] >= burst * usual:
            starts.append(int(shown[step + 1]))
    return Cuts(tuple(starts), tuple(map(int, np.flatnonzero(blank))), len(thumbnails))


def _changes(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - correlation of each row with the one before."""
    centred = flat - flat.mean(1, keepdims=True)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    correlation: NDArray[np.float32] = (unit[1:] * unit[:-1]).sum(1)
    return 1 - correlation


def check_pixels(pixels: Frames) -> tuple[int, int, int]:
    """(T, H, W) of RGB frames.

    Raises:
        ShapeError: not (T, H, W, 3) with at least one frame and pixel.
    """
    shape: Sequence[int] = pixels.shape
    if len(shape) != 4 or shape[-1] != 3 or min(shape) < 1:
        raise ShapeError(f"pixels must be (T, H, W, 3) RGB with at least one frame and pixel, got {tuple(shape)}")
    return int(shape[0]), int(shape[1]), int(shape[2])
