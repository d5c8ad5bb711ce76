"""Depth of every pixel: estimated by a model, or recorded by a depth camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from extractors.errors import LengthMismatchError, MissingDataError, ShapeError
from extractors.geometry import axis_taps, half_covered
from extractors.types import Backend, Depth, DepthKind, Episode, Frames, Size

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


class DepthEstimator(Backend, Protocol):
    """Estimates the depth of one clip from its pixels."""

    def estimate(self, pixels: Frames, *, size: Size) -> Depth:
        """Depth of `pixels` (T, H, W, 3) uint8 RGB, area-averaged (bilinear where larger) to `size` (height, width)."""
        ...


@runtime_checkable
class BatchDepthEstimator(DepthEstimator, Protocol):
    """Can also take clips of several episodes in one call."""

    def estimate_many(self, clips: Sequence[Frames], *, size: Size) -> list[Depth]:
        """Depth of each of `clips`, as by `estimate` but for rounding: 1e-5 of a map's range.

        One clip that fails fails the call.
        """
        ...

    def padding(self, n_frames: Sequence[int]) -> float:
        """Share of a call's work that is for frames which no clip has, in [0, 1]; clips of `n_frames` frames each."""
        ...


def recorded_depth(episode: Episode, *, size: Size, same_surface: float = 0.05) -> Depth:
    """Metric depth of the episode's depth camera at packet size.

    Area averaging, with two exceptions where a plain average would invent surfaces: pixels without a reading do not
    count (a packet pixel has a reading when readings cover at least half of it), and where readings differ by more than
    `same_surface` (an edge), only those near the weighted median of the packet pixel are averaged, so that the pixel
    is on the surface that covers most of it and not in the air between two.

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
    return np.where(half_covered(covered), (readings * weights).sum(0) / np.maximum(total, 1e-6), 0).astype(np.float32)


def _weighted_median(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along axis 0, the value at which half of the weight is reached."""
    order = np.argsort(values, axis=0)
    reached = np.cumsum(np.take_along_axis(weights, order, 0), axis=0)
    at = (reached >= 0.5 * reached[-1:]).argmax(0)
    median: NDArray[np.float32] = np.take_along_axis(np.take_along_axis(values, order, 0), at[None], 0)[0]
    return median
