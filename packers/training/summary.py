"""What a collection of packets holds: hours, tags, which cues, and the statistics of actions and states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from packers.training.index import Entry
from packers.training.statistics import ColumnStatistics, source_statistics

MOST_COLUMNS = 256
"""Columns of one dataset that are listed: robots have fewer, and a page of a million cannot be opened."""

_SHOWN = ("mean", "std", "minimum", "q01", "q50", "q99", "maximum")


def describe_collection(entries: Sequence[Entry]) -> dict[str, Any]:
    """The collection as JSON types.

    Returns:
        `episodes`, `frames`, `hours` (frames by their packet's rate), `bytes`, `tasks` (different instructions),
        `lengths` (fewest, median and most frames); `sources`: per data set `episodes`, `frames`, `hours`, `fps` (the
        rates there are), `columns`: dataset -> per column `count`, `mean`, `std`, `minimum`, `q01`, `q50`, `q99`,
        `maximum`, null where a column has no value, and `columns_left_out`: dataset -> columns beyond `MOST_COLUMNS`;
        `tags`: tag -> episodes; `quality`: modality -> status -> episodes; `coverage`: dataset -> episodes that have
        it.

    Raises:
        PacketError: a packet is damaged.
    """
    lengths = np.array([entry.facts["n_frames"] for entry in entries])
    statistics = source_statistics(entries, ("action", "state"))
    sources = sorted({entry.facts["source"] for entry in entries})
    quality: dict[str, Counter[str]] = {}
    for entry in entries:
        for modality, status in entry.facts["quality"].items():
            quality.setdefault(modality, Counter())[str(status)] += 1
    return {
        **_extent(entries),
        "bytes": sum(entry.size for entry in entries),
        "tasks": len({entry.facts["language_instruction"] for entry in entries} - {""}),
        "lengths": [int(lengths.min()), float(np.median(lengths)), int(lengths.max())],
        "sources": {
            source: _extent(own := [entry for entry in entries if entry.facts["source"] == source])
            | {"fps": sorted({entry.facts["fps"] for entry in own})}
            | _columns(statistics.get(source, {}))
            for source in sources
        },
        "tags": dict(Counter(tag for entry in entries for tag in entry.facts["tags"]).most_common()),
        "quality": {modality: dict(counts.most_common()) for modality, counts in sorted(quality.items())},
        "coverage": dict(sorted(Counter(name for entry in entries for name in entry.kinds).items())),
    }


def format_collection(description: dict[str, Any]) -> str:
    """The same as text: totals, then a table each of sources, columns, tags, quality and coverage."""
    d = description
    least, median, most = d["lengths"]
    lines = [
        f"{d['episodes']} episodes, {d['frames']} frames, {d['hours']:.2f} h, {d['bytes'] / 1e9:.2f} GB "
        f"({d['bytes'] / d['frames'] / 1e3:.0f} kB a frame), {d['tasks']} tasks",
        f"frames an episode: {least} to {most}, median {median:g}",
    ]
    for source, own in d["sources"].items():
        rates = ", ".join(f"{fps:g}" for fps in own["fps"])
        lines += ["", f"{source}: {own['episodes']} episodes, {own['hours']:.2f} h at {rates} frames/s"]
        if own["columns"]:
            lines.append(f"  {'':12}" + "".join(f"{name:>11}" for name in ("count", *_SHOWN)))
        for name, columns in own["columns"].items():
            for number, column in enumerate(columns):
                values = "".join(
                    f"{'-':>11}" if column[key] is None else f"{column[key]:11.4g}" for key in ("count", *_SHOWN)
                )
                lines.append(f"  {f'{name} {number}':12}{values}")
        for name, count in own["columns_left_out"].items():
            lines.append(f"  {name}: {count} more columns, not listed")
    lines += ["", "tags: " + (", ".join(f"{tag} {count}" for tag, count in d["tags"].items()) or "none")]
    for modality, counts in d["quality"].items():
        lines.append(f"quality of {modality}: " + ", ".join(f"{status} {count}" for status, count in counts.items()))
    lines += ["", "coverage, share of the episodes:"]
    lines += [f"  {count / d['episodes']:6.1%}  {name}" for name, count in d["coverage"].items()]
    return "\n".join(lines)


def _extent(entries: Sequence[Entry]) -> dict[str, Any]:
    hours = sum(entry.facts["n_frames"] / entry.facts["fps"] for entry in entries) / 3600
    return {
        "episodes": len(entries),
        "frames": sum(entry.facts["n_frames"] for entry in entries),
        "hours": round(hours, 6),
    }


def _columns(statistics: Mapping[str, ColumnStatistics]) -> dict[str, Any]:
    widths = {name: len(found.count) for name, found in statistics.items()}
    return {
        "columns": {name: _listed(found) for name, found in statistics.items()},
        "columns_left_out": {name: width - MOST_COLUMNS for name, width in widths.items() if width > MOST_COLUMNS},
    }


def _listed(found: ColumnStatistics) -> list[dict[str, float | None]]:
    keys = ("count", *_SHOWN)
    rows = zip(*(getattr(found, key)[:MOST_COLUMNS].tolist() for key in keys), strict=True)
    return [{key: v if np.isfinite(v) else None for key, v in zip(keys, row, strict=True)} for row in rows]
