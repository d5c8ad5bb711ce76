"""Statistics of actions, states and descriptors, one set per source, computed once over the training split and kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, OutputError
from packers.atomic import write_whole
from packers.training.files import RowReader
from packers.training.index import Entry, OpenPackets

Normalise = Literal["none", "standard", "range"]

QUANTILES = (0.01, 0.5, 0.99)

LEAST_DEVIATION = 1e-6
"""A column that varies less is constant: it is centred and not divided, as noise there would become a signal."""

_log = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class ColumnStatistics:
    """Of one dataset of one source, per column; all (A,) float64. Values that are NaN are left out.

    Attributes:
        count: values.
        mean, std: std is the population's.
        minimum, maximum, q01, q50, q99: extremes and quantiles.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    q01: NDArray[np.float64]
    q50: NDArray[np.float64]
    q99: NDArray[np.float64]

    def normalised(self, values: NDArray[np.float32], how: Normalise) -> NDArray[np.float32]:
        """`values` (..., A): "standard" less the mean, by the deviation; "range" q01 to -1, q99 to 1, not clipped."""
        if how == "none":
            return values
        middle, scale = (
            (self.mean, self.std) if how == "standard" else ((self.q01 + self.q99) / 2, (self.q99 - self.q01) / 2)
        )
        scale = np.where(scale > LEAST_DEVIATION, scale, 1.0)
        return ((values - middle) / scale).astype(np.float32)


def column_statistics(values: NDArray[Any]) -> ColumnStatistics:
    """Statistics of `values` (rows, A); NaN where a column has no value at all."""
    # All columns at once: a stranger's packet may have a hundred thousand.
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan).astype(np.float64), axis=0)  # NaN comes last
    kept = np.isfinite(ordered)
    count = kept.sum(0).astype(np.float64)
    some = np.where(count > 0, count, np.nan)
    mean = np.where(kept, ordered, 0.0).sum(0) / some
    deviation = np.where(kept, ordered - mean, 0.0)
    quantiles = (_quantile(ordered, count, q) for q in (0.0, 1.0, *QUANTILES))
    return ColumnStatistics(count, mean, np.sqrt((deviation**2).sum(0) / some), *quantiles)


def _quantile(ordered: NDArray[np.float64], count: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """A quantile of each column's first `count` values, which ascend; between two values on a straight line."""
    if not len(ordered):
        return np.full(ordered.shape[1], np.nan)
    place = q * np.maximum(count - 1, 0)
    below = np.floor(place).astype(np.intp)
    above = np.ceil(place).astype(np.intp)
    low, high = (np.take_along_axis(ordered, each[None], axis=0)[0] for each in (below, above))
    found: NDArray[np.float64] = low + (high - low) * (place - below)
    return found


def source_statistics(entries: Sequence[Entry], names: Iterable[str]) -> dict[str, dict[str, ColumnStatistics]]:
    """Source -> dataset -> statistics over all rows of all `entries` that have the dataset.

    Raises:
        PacketError: a packet is damaged.
        ConfigError: packets of one source differ in a dataset's width.
    """
    packets, reader = OpenPackets(entries, 8), RowReader()
    rows: dict[tuple[str, str], list[NDArray[Any]]] = {}
    for number, entry in enumerate(entries):
        for name in names:
            if name in entry.kinds:
                length = packets[number].arrays[name].length
                found = reader.read(packets[number], name, range(length)).reshape(length, -1)
                rows.setdefault((entry.facts["source"], name), []).append(found)
    packets.close()
    statistics: dict[str, dict[str, ColumnStatistics]] = {}
    for (source, name), parts in rows.items():
        if len({part.shape[1] for part in parts}) > 1:
            widths = sorted({part.shape[1] for part in parts})
            raise ConfigError(f"packets of {source} have {name} of {widths} numbers; train on one kind, or apart")
        statistics.setdefault(source, {})[name] = column_statistics(np.concatenate(parts))
    return statistics


def kept_statistics(
    entries: Sequence[Entry], names: Sequence[str], file: Path
) -> dict[str, dict[str, ColumnStatistics]]:
    """`source_statistics` of `entries`, from `file` where it holds those of the same packets, else put there.

    Raises:
        OutputError: the file cannot be written.
    """
    stamps = sorted((e.facts["source"], e.facts["episode_id"], e.size, e.mtime_ns) for e in entries)
    fingerprint = hashlib.sha256(json.dumps([_VERSION, stamps]).encode()).hexdigest()
    stored = _load(file)
    by_source = stored["statistics"] if stored.get("fingerprint") == fingerprint else {}
    needed = {(e.facts["source"], name) for e in entries for name in names if name in e.kinds}
    if any(name not in by_source.get(source, {}) for source, name in needed):
        fresh = source_statistics(entries, names)
        for source, columns in fresh.items():
            by_source.setdefault(source, {}).update({name: _plain(column) for name, column in columns.items()})
        _save(file, {"fingerprint": fingerprint, "packets": len(entries), "statistics": by_source})
    return {
        source: {
            name: ColumnStatistics(**{key: _array(values) for key, values in column.items()})
            for name, column in columns.items()
        }
        for source, columns in by_source.items()
    }


def _load(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("statistics %s cannot be read (%s) and are computed again", file, error)
        return {}
    return stored if isinstance(stored, dict) else {}


def _save(file: Path, content: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content, indent=1, sort_keys=True, allow_nan=False))
    except OSError as error:
        raise OutputError(
            f"statistics {file} cannot be written ({error.strerror or error}); name a folder for them with cache=..."
        ) from error


def _plain(column: ColumnStatistics) -> dict[str, list[float | None]]:
    fields = ColumnStatistics.__slots__
    return {key: [float(v) if np.isfinite(v) else None for v in getattr(column, key)] for key in fields}


def _array(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
