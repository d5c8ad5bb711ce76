"""Sub-scores of a clip, each in [0, 1], and how they are combined. None means: could not be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scoring.settings import ScoringSettings

METADATA = ("task", "length")
CONTENT = ("displacement", "mask", "depth")
NEUTRAL_TASK = 0.5

Scores = dict[str, float | None]

_CLOTH = re.compile(r"\b(fold\w*|unfold\w*|cloth\w*|towel\w*|napkin\w*|laundry|rag|t-?shirt\w*|shirt\w*)\b")
_PUT = re.compile(r"\b(put|place|set|drop|insert|stack)\b.+\b(on|onto|in|into|inside|to|under|over|next to|from)\b")
_PICK = re.compile(r"\b(pick|lift|grab|grasp|take)\b")
_MOVE = re.compile(r"\b(move|push|slide|bring|transfer|turn|flip|open|close|pull)\b")


def task_score(language_instruction: str) -> float:
    """How well the instruction suits object-centred cues.

    `put X on/in Y` and `pick up X` score 1, other handling of one rigid object 0.7, cloth and folding 0.1, and a clip
    without an instruction is neutral (0.5), as is one that says nothing known (product.md section 6).
    """
    text = " ".join(language_instruction.lower().split())
    if not text:
        return NEUTRAL_TASK
    if _CLOTH.search(text):
        return 0.1
    if _PUT.search(text) or _PICK.search(text):
        return 1.0
    return 0.7 if _MOVE.search(text) else NEUTRAL_TASK


def length_score(n_frames: int | None, settings: ScoringSettings) -> float | None:
    """1 from `length_low` to `length_high` frames, falling to 0 at no frame and at four times the high end."""
    if n_frames is None:
        return None
    low, high = settings.length_low, settings.length_high
    if n_frames < low:
        return max(n_frames - 1, 0) / max(low - 1, 1)
    return float(np.clip(1 - (n_frames - high) / (3 * high), 0, 1))


def displacement_score(
    xy: NDArray[np.float32], visibility: NDArray[np.bool_], on_object: NDArray[np.bool_], settings: ScoringSettings
) -> float | None:
    """Median net path of the object's points against `displacement_full_px`, the camera's own motion removed.

    Args:
        xy: (T, N, 2) packet pixels.
        visibility: (T, N).
        on_object: (N,).
        settings: thresholds.
    """
    if len(xy) < 2 or not on_object.any():
        return None
    steps = np.diff(xy.astype(np.float64), axis=0)
    seen = visibility[1:] & visibility[:-1]
    background = np.where((seen & ~on_object)[..., None], steps, np.nan)
    with np.errstate(all="ignore"):
        camera = np.nan_to_num(_nanmedian(background))
    paths = np.linalg.norm(steps - camera[:, None], axis=-1) * seen
    median_path = float(np.median(paths[:, on_object].sum(axis=0)))
    return float(np.clip(median_path / settings.displacement_full_px, 0, 1))


def mask_score(masks: NDArray[np.bool_], settings: ScoringSettings) -> float:
    """Coverage inside the wanted band, times steadiness of the area in time, times the share of frames with a mask."""
    areas = masks.reshape(len(masks), -1).mean(axis=1, dtype=np.float64)
    present = areas > 0
    if not present.any():
        return 0.0
    coverage = float(np.median(areas[present]))
    low, high = settings.coverage_low, settings.coverage_high
    band = coverage / low if coverage < low else 1 - (coverage - high) / (1 - high) if coverage > high else 1.0
    both = present[1:] & present[:-1]
    change = np.abs(np.diff(areas))[both] / np.maximum(areas[1:], areas[:-1])[both]
    flicker = float(np.median(change)) if len(change) else 0.0
    return float(np.clip(band, 0, 1) * np.clip(1 - flicker / settings.flicker_zero, 0, 1) * present.mean())


def depth_dynamic_range(depth: NDArray[np.float32], kind: Literal["relative", "metric"]) -> float | None:
    """Median over frames of max - min (relative, on the model's own scale) or of p95 / p5 (metric, readings only)."""
    ranges = []
    for frame in depth:
        values = frame[np.isfinite(frame) & (frame > 0)] if kind == "metric" else frame[np.isfinite(frame)]
        if len(values) == 0:
            continue
        low, high = np.percentile(values, [5, 95]) if kind == "metric" else (values.min(), values.max())
        ranges.append(high / low if kind == "metric" else high - low)
    return float(np.median(ranges)) if ranges else None


def depth_score(dynamic_range: float | None, settings: ScoringSettings) -> float | None:
    """The dynamic range against `depth_range_full`, None without depth."""
    return None if dynamic_range is None else float(np.clip(dynamic_range / settings.depth_range_full, 0, 1))


def combine(sub_scores: Mapping[str, float | None], settings: ScoringSettings) -> Scores:
    """The weighted mean of the sub-scores that could be told; the others' weight goes to them, and is reported.

    Returns:
        The sub-scores, `score`, and `weight_missing`: the share of the weight that was redistributed.
    """
    weights = {name: float(getattr(settings, f"weight_{name}")) for name in sub_scores}
    known = {name: value for name, value in sub_scores.items() if value is not None}
    told = sum(weights[name] for name in known)
    total = sum(weights.values())
    score = sum(weights[name] * value for name, value in known.items()) / told if told else None
    rounded: Scores = {name: None if value is None else round(value, 6) for name, value in sub_scores.items()}
    rounded["score"] = None if score is None else round(score, 6)
    rounded["weight_missing"] = round(1 - told / total, 6) if total else 1.0
    return rounded


def score_metadata(language_instruction: str, n_frames: int | None, settings: ScoringSettings) -> Scores:
    """What can be told before any image is decoded."""
    parts = {"task": task_score(language_instruction), "length": length_score(n_frames, settings)}
    return combine(parts, settings)


def best_possible_score(metadata: Scores, settings: ScoringSettings) -> float:
    """The score of a clip with this metadata whose content turned out perfect."""
    parts = {name: metadata[name] for name in METADATA} | dict.fromkeys(CONTENT, 1.0)
    best = combine(parts, settings)["score"]
    return 1.0 if best is None else best


def _nanmedian(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T-1, 2) median over points; NaN rows where none was seen, without numpy's warning."""
    rows = [np.nanmedian(row, axis=0) if np.isfinite(row).any() else np.zeros(2) for row in steps]
    return np.array(rows)
