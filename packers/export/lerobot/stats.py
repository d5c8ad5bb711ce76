"""Statistics of a LeRobot data set: what `meta/stats.json` and the episode table hold for each feature.

Per element: min, max, mean, std, quantiles; per image: one of each a channel, shape (C, 1, 1), in the unit in which
LeRobot's reader gives the image. `count` is the number of frames that went in. Rows that are NaN (no action, no mask)
are left out. The data set's quantiles are the episodes', weighted by their counts, as LeRobot aggregates them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MOMENTS = ("min", "max", "mean", "std", "count", *QUANTILES)

_MOST_DEPTH_FRAMES, _DEPTH_STEP = 100, 4  # of an episode, and of its pixels, as LeRobot samples images

Stats = dict[str, NDArray[Any]]
"""Each of `MOMENTS`: float64 of the element's shape; `count` int64 (1,)."""


def row_stats(values: NDArray[Any]) -> Stats | None:
    """Statistics of `values` (T, ...) over its finite rows; None where no row is finite."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        return None
    shape = values.shape[1:] or (1,)
    found: Stats = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        **dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True)),
    }
    return {**{name: value.reshape(shape) for name, value in found.items()}, "count": np.array([len(rows)])}


class ImageStats:
    """Exact statistics of 8-bit images from their histograms.

    Args:
        channels: C.
        unit: what a count of 1 is worth: 1/255 for colours, 1 for masks of 0 and 1.
    """

    def __init__(self, channels: int, unit: float) -> None:
        self._histogram = np.zeros((channels, 256), np.int64)
        self._unit = unit
        self._frames = 0

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Takes in `frames` (n, H, W, C)."""
        self._frames += len(frames)
        for channel, counts in enumerate(self._histogram):
            counts += np.bincount(frames[..., channel].ravel(), minlength=256)

    def result(self) -> Stats | None:
        """Statistics so far; None before the first frame."""
        if not self._frames:
            return None
        values, total = np.arange(256) * self._unit, self._histogram.sum(axis=1)
        mean = self._histogram @ values / total
        variance = (self._histogram * (values - mean[:, None]) ** 2).sum(axis=1) / total
        below = self._histogram.cumsum(axis=1)
        found: Stats = {
            "min": values[(self._histogram > 0).argmax(axis=1)],
            "max": values[255 - (self._histogram[:, ::-1] > 0).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(variance),
            **{name: values[(below >= q * total[:, None]).argmax(axis=1)] for name, q in QUANTILES.items()},
        }
        return {**{name: value[:, None, None] for name, value in found.items()}, "count": np.array([self._frames])}


class DepthStats:
    """Statistics of float maps, over every fourth pixel each way of at most 100 frames of the episode.

    Args:
        n_frames: T of the episode.
    """

    def __init__(self, n_frames: int) -> None:
        chosen = np.linspace(0, n_frames - 1, min(n_frames, _MOST_DEPTH_FRAMES)).round().astype(int)
        self._chosen = frozenset(chosen.tolist())
        self._values: list[NDArray[np.float32]] = []
        self._seen = 0

    def add(self, frames: NDArray[np.float32]) -> None:
        """Takes in `frames` (n, H, W), in order."""
        for frame in frames:
            if self._seen in self._chosen:
                values = frame[::_DEPTH_STEP, ::_DEPTH_STEP]
                self._values.append(values[np.isfinite(values)])
            self._seen += 1

    def result(self) -> Stats | None:
        """Statistics so far; None where no pixel has a reading."""
        values = np.concatenate(self._values) if self._values else np.zeros(0, np.float32)
        found = row_stats(values)
        if found is None:
            return None
        shaped: Stats = {name: value.reshape(1, 1, 1) for name, value in found.items()}
        return {**shaped, "count": np.array([len(self._chosen)])}


class StatsTotal:
    """Statistics of the data set, put together from its episodes' as LeRobot does."""

    def __init__(self) -> None:
        self._count = 0
        self._low: NDArray[np.float64] | None = None
        self._high: NDArray[np.float64] | None = None
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, stats: Stats | None) -> None:
        """Takes in one episode's; None (no valid row) adds nothing."""
        if stats is None:
            return
        count = int(stats["count"][0])
        if self._low is None or self._high is None:
            self._low, self._high = stats["min"].copy(), stats["max"].copy()
            self._sums = {name: np.zeros_like(stats["mean"]) for name in ("mean", "deviation", *QUANTILES)}
        self._low, self._high = np.minimum(self._low, stats["min"]), np.maximum(self._high, stats["max"])
        # Welford's update for groups: squares of large values (indices) would cancel.
        delta = stats["mean"] - self._sums["mean"]
        share = count / (self._count + count)
        self._sums["deviation"] += count * stats["std"] ** 2 + self._count * share * delta**2
        self._sums["mean"] += share * delta
        for name in QUANTILES:
            self._sums[name] += share * (stats[name] - self._sums[name])
        self._count += count

    def result(self) -> Stats | None:
        """The data set's; None where no episode had a valid row."""
        if self._low is None or self._high is None:
            return None
        return {
            "min": self._low,
            "max": self._high,
            "mean": self._sums["mean"],
            "std": np.sqrt(self._sums["deviation"] / self._count),
            "count": np.array([self._count]),
            **{name: self._sums[name] for name in QUANTILES},
        }
