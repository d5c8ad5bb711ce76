"""Two packets of one episode, held against each other in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.reader import Packet

_WINDOW = 64
_MOST_TEXT = 80


def compare_packets(a: Path | str, b: Path | str, names: tuple[str, str] = ("A", "B")) -> dict[str, Any]:
    """How two packets of one episode differ.

    Returns:
        `names`; `numbers`: score and quality numbers of both, where either has them; `agreement`: per-frame
        differences of what both have, as `median`, `worst` and `worst_frame`; `settings`: configuration, backends and
        weights that differ; `notes`: why something was not compared.

    Raises:
        PacketError: one cannot be opened.
    """
    with Packet(a) as first, Packet(b) as second:
        notes: list[str] = []
        frames = [packet.attributes.get("source", {}).get("frame_sha256") for packet in (first, second)]
        if frames[0] != frames[1]:
            notes.append("the two packets were not made from the same source frames: read the differences with care")
        agreement = []
        if first.n_frames != second.n_frames:
            notes.append(f"A has {first.n_frames} frames, B {second.n_frames}: nothing is compared frame by frame")
        elif first.size != second.size:
            notes.append(f"A is {first.size} px, B {second.size}: nothing is compared frame by frame")
        else:
            agreement = list(_agreement(first, second, notes))
        return {
            "names": {"a": names[0], "b": names[1]},
            "numbers": _numbers(first.attributes, second.attributes),
            "agreement": agreement,
            "settings": _settings(first.attributes, second.attributes),
            "notes": notes,
        }


def _numbers(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    def flat(attributes: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = dict(attributes.get("scores") or {})
        for modality, card in (attributes.get("quality") or {}).items():
            found[f"{modality} status"] = card.get("status")
            found |= {f"{modality} {name}": value for name, value in (card.get("numbers") or {}).items()}
        return {name: value for name, value in found.items() if isinstance(value, int | float | str)}

    a, b = flat(first), flat(second)
    names = ["score", *sorted((a.keys() | b.keys()) - {"score"})]
    return [{"name": name.replace("_", " "), "a": a.get(name), "b": b.get(name)} for name in names]


def _settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from flat(item, f"{name}.{key}" if name else str(key))
        else:
            yield name, str(value)[:_MOST_TEXT]

    def made(attributes: Mapping[str, Any]) -> dict[str, str]:
        stages = attributes.get("stages") or {}
        kept = ("backend", "weights", "device", "precision", "version")
        records = {stage: {key: record.get(key) for key in kept} for stage, record in stages.items()}
        return dict(flat({"config": attributes.get("config") or {}, "stage": records}))

    a, b = made(first), made(second)
    return [
        {"name": name, "a": a.get(name), "b": b.get(name)}
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def _agreement(first: Packet, second: Packet, notes: list[str]) -> Iterator[dict[str, Any]]:
    comparisons = (
        ("mask overlap (IoU)", "", ("masks/object",), _mask_overlap, False),
        ("relative depth after the best scale and shift, RMS", "of A's spread", ("depth/relative",), _affine_gap, True),
        (
            "stabilized depth after the best scale and shift, RMS",
            "of A's spread",
            ("depth/stabilized",),
            _affine_gap,
            True,
        ),
        ("metric depth, median |B - A|", "m", ("depth/metric",), _metric_gap, True),
        ("centroid distance", "", ("centroids",), _centroid_gap, True),
    )
    for name, units, datasets, gap, larger_is_worse in comparisons:
        if not all(dataset in first and dataset in second for dataset in datasets):
            continue
        try:
            values = _windowed(first, second, datasets[0], gap)
            units = units or str(first.dataset_attributes(datasets[0]).get("units", ""))
        except PacketError as error:
            notes.append(f"{datasets[0]}: {error}")
            continue
        yield _summary(name, units, values, larger_is_worse)
    for name in ("foreground", "grid"):
        yield from _track_gap(first, second, name, notes)


def _windowed(first: Packet, second: Packet, dataset: str, gap: Any) -> NDArray[np.float64]:
    found = [
        gap(a, b)
        for start in range(0, first.n_frames, _WINDOW)
        for a, b in zip(
            first.read(dataset, start, min(start + _WINDOW, first.n_frames)),
            second.read(dataset, start, min(start + _WINDOW, first.n_frames)),
            strict=True,
        )
    ]
    return np.array(found, np.float64)


def _mask_overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def _affine_gap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Root mean square of A minus the best scale * B + shift, in standard deviations of A."""
    both_finite = np.isfinite(a) & np.isfinite(b)
    x, y = b[both_finite].astype(np.float64), a[both_finite].astype(np.float64)
    if len(x) < 2 or y.std() == 0 or x.std() == 0:
        return float("nan")
    correlation = float(np.corrcoef(x, y)[0, 1])
    return float(np.sqrt(max(0.0, 1 - correlation**2)))


def _metric_gap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    both_positive = (np.nan_to_num(a) > 0) & (np.nan_to_num(b) > 0)
    return float(np.median(np.abs(a[both_positive] - b[both_positive]))) if both_positive.any() else float("nan")


def _centroid_gap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b))


def _track_gap(first: Packet, second: Packet, name: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Distance of points that were dropped at the same place, where both see them."""
    root = f"tracks/{name}"
    if f"{root}/xy" not in first or f"{root}/xy" not in second:
        return
    queries, others = first.read(f"{root}/queries"), second.read(f"{root}/queries")
    if queries.shape != others.shape or not np.allclose(queries, others, atol=0.51):
        notes.append(f"{root}: the points were dropped at different places, so their paths are not compared")
        return
    both = first.read(f"{root}/visibility") & second.read(f"{root}/visibility")
    distance = np.linalg.norm(first.read(f"{root}/xy") - second.read(f"{root}/xy"), axis=-1)
    values = np.array([np.median(d[v]) if v.any() else np.nan for d, v in zip(distance, both, strict=True)])
    yield _summary(f"{name} tracks, median distance", "px", values, True)


def _summary(name: str, units: str, values: NDArray[np.float64], larger_is_worse: bool) -> dict[str, Any]:
    finite = np.isfinite(values)
    line: dict[str, Any] = {"name": name, "units": units, "median": None, "worst": None, "worst_frame": None}
    if finite.any():
        ranked = np.where(finite, values, -np.inf if larger_is_worse else np.inf)
        worst = int(ranked.argmax() if larger_is_worse else ranked.argmin())
        line |= {"median": round(float(np.median(values[finite])), 5), "worst": round(float(values[worst]), 5)}
        line["worst_frame"] = worst
    return line
