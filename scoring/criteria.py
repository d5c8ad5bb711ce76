"""Sub-scores of a clip, each in [0, 1] and 1 the best, and how they are combined. None means: could not be measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from extractors.instruction import parse_instruction
from scoring.masks import MaskNumbers
from scoring.settings import ScoringSettings

METADATA = ("task", "length")
CONTENT = ("displacement", "mask", "depth", "dead_actions", "jerk", "chatter")

Scores = dict[str, float | None]

_LOW = {
    "task": "the instruction is not to put, pick or stack one rigid object",
    "length": "too short or too long",
    "displacement": "the object hardly moves",
    "mask": "the mask is missing, unsteady, too small or too large",
    "depth": "the depth map has little range",
    "dead_actions": "many actions command nothing",
    "jerk": "the actions jerk",
    "chatter": "the gripper opens and closes again and again",
}


def task_score(language_instruction: str, settings: ScoringSettings | None = None) -> float:
    """How well the instruction suits object-centred cues (product.md section 6).

    Putting, picking and stacking one object score full, other handling of it less, folding cloth least. A clip without
    an instruction is neutral, as is one that says nothing known. Cloth that is carried scores `task_deformable`:
    centroid and shape say little about it.
    """
    settings = settings or ScoringSettings()
    instruction = parse_instruction(language_instruction)
    if instruction.action in ("unlabelled", "unknown"):
        return settings.task_neutral
    if instruction.action == "place" and instruction.relation is None:
        return settings.task_move  # "put the cup": where to is not said
    score = float(getattr(settings, f"task_{instruction.action}"))
    return min(score, settings.task_deformable) if instruction.deformable else score


def length_score(n_frames: int | None, fps: float | None, settings: ScoringSettings) -> float | None:
    """1 from `length_low_s` to `length_high_s`, falling to 0 at a single frame and at four times the high end.

    The study's 15 to 40 frames are those of BridgeData's 5 frames/s: 3 to 8 seconds.
    """
    if n_frames is None or fps is None or not (math.isfinite(fps) and fps > 0):
        return None
    low, high, seconds = settings.length_low_s, settings.length_high_s, n_frames / fps
    if seconds < low:
        return max(n_frames - 1, 0) / max(low * fps - 1, 1)
    return float(np.clip(1 - (seconds - high) / (3 * high), 0, 1))


def displacement_score(excursion: float | None, settings: ScoringSettings) -> float | None:
    """`scoring.tracks.object_excursion` (widths) against `displacement_full`."""
    return None if excursion is None else float(np.clip(excursion / settings.displacement_full, 0, 1))


def mask_score(numbers: MaskNumbers, settings: ScoringSettings) -> float:
    """Coverage, times steadiness of the area in time, times the share of frames with a mask.

    Coverage is 1 from `coverage_low` to `coverage_high`; it falls in proportion below, and linearly to 0 at the full
    frame above.
    Steadiness is 1 - m / `flicker_zero`, with m the mean relative change of area over 0.2 s, or from frame to frame
    where that is larger: a mask that swings back within 0.2 s flickers too.
    """
    present = numbers.present
    if not present.any():
        return 0.0
    coverage, low, high = numbers.coverage, settings.coverage_low, settings.coverage_high
    band = coverage / low if coverage < low else 1 - (coverage - high) / (1 - high) if coverage > high else 1.0
    unsteady = max(_area_change(numbers.area, lag) for lag in (1, numbers.window))
    return float(np.clip(band, 0, 1) * np.clip(1 - unsteady / settings.flicker_zero, 0, 1) * present.mean())


def _area_change(area: NDArray[np.float64], lag: int) -> float:
    """Mean change of area over `lag` frames, relative to the larger; 0 for shorter clips."""
    before, after = area[:-lag], area[lag:]
    larger = np.maximum(before, after)
    some = larger > 0
    return float((np.abs(after - before)[some] / larger[some]).mean()) if some.any() else 0.0


def depth_score(dynamic_range: float | None, settings: ScoringSettings) -> float | None:
    """`scoring.depth.dynamic_range` against `depth_range_full`, None without depth."""
    return None if dynamic_range is None else float(np.clip(dynamic_range / settings.depth_range_full, 0, 1))


def combine(sub_scores: Mapping[str, float | None], settings: ScoringSettings) -> Scores:
    """The weighted mean of the sub-scores that were measured; the others' weight goes to them, and is reported.

    Returns:
        The sub-scores, `score`, and `weight_missing`: the share of the weight that was redistributed. A sub-score that
        is not finite counts as not measured.
    """
    weights = {name: float(getattr(settings, f"weight_{name}")) for name in sub_scores}
    parts = {name: None if value is None or not math.isfinite(value) else value for name, value in sub_scores.items()}
    measured = {name: value for name, value in parts.items() if value is not None}
    measured_weight = sum(weights[name] for name in measured)
    total = sum(weights.values())
    score = (
        sum(weights[name] * value for name, value in measured.items()) / measured_weight if measured_weight else None
    )
    rounded: Scores = {name: None if value is None else round(value, 6) for name, value in parts.items()}
    rounded["score"] = None if score is None else round(score, 6)
    rounded["weight_missing"] = round(1 - measured_weight / total, 6) if total else 1.0
    return rounded


def explain_score(scores: Mapping[str, float | None], settings: ScoringSettings) -> str:
    """What keeps a score from 1, in words, the costliest first: the reasons of a clip that is not taken."""
    costs = [
        (float(getattr(settings, f"weight_{name}")) * (1 - value), name, value)
        for name in _LOW
        if (value := scores.get(name)) is not None and value < 0.9
    ]
    reasons = [f"{name} {value:.2f} ({_LOW[name]})" for cost, name, value in sorted(costs, reverse=True) if cost > 0]
    unmeasured = [name for name in _LOW if name in scores and scores[name] is None]
    if unmeasured:
        reasons.append(f"not measured: {', '.join(unmeasured)}")
    return "; ".join(reasons) or "nothing is low"


def score_metadata(
    language_instruction: str, n_frames: int | None, fps: float | None, settings: ScoringSettings
) -> Scores:
    """What can be said before any image is decoded."""
    parts = {"task": task_score(language_instruction, settings), "length": length_score(n_frames, fps, settings)}
    return combine(parts, settings)


def best_possible_score(metadata: Scores, settings: ScoringSettings) -> float:
    """The score of a clip with this metadata whose content turned out perfect; a length not known counts as good."""
    parts = {name: 1.0 if metadata[name] is None else metadata[name] for name in METADATA}
    best = combine(parts | dict.fromkeys(CONTENT, 1.0), settings)["score"]
    return 1.0 if best is None else best
