"""The quality card: a verdict per modality with its numbers and reasons, and tags that say what a clip is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scoring.criteria import (
    Scores,
    combine,
    depth_dynamic_range,
    depth_score,
    displacement_score,
    length_score,
    mask_score,
    task_score,
)
from scoring.settings import ScoringSettings


@dataclass(frozen=True, slots=True, eq=False)
class ClipSignals:
    """All that a verdict is made from, as stored in the packet. None: not extracted.

    Attributes:
        language_instruction: "" where there is none.
        n_frames: T.
        pixels: (T, H, W, 3) uint8.
        timestamp: (T,) seconds.
        fps: as declared.
        action, action_valid, state, gripper: proprioception.
        masks: (T, H, W) bool, the object.
        robot: (T, H, W) bool.
        mask_score: (T,) the detector's confidence.
        depth: (T, H, W), of `depth_kind`.
        depth_kind: "relative" or "metric".
        tracks: set name -> field name -> array.
        contact: (T,) probability.
        held: (T,) bool.
        centroids_valid: (T,) bool.
        intrinsics_source: as in the packet.
        reports: stage -> its report.
        tags: what the source noticed.
    """

    language_instruction: str
    n_frames: int
    pixels: NDArray[np.uint8]
    timestamp: NDArray[np.float64]
    fps: float
    action: NDArray[np.float32] | None = None
    action_valid: NDArray[np.bool_] | None = None
    state: NDArray[np.float32] | None = None
    gripper: NDArray[np.float32] | None = None
    masks: NDArray[np.bool_] | None = None
    robot: NDArray[np.bool_] | None = None
    mask_score: NDArray[np.float32] | None = None
    depth: NDArray[np.float32] | None = None
    depth_kind: Literal["relative", "metric"] | None = None
    tracks: Mapping[str, Mapping[str, NDArray[Any]]] | None = None
    contact: NDArray[np.float32] | None = None
    held: NDArray[np.bool_] | None = None
    centroids_valid: NDArray[np.bool_] | None = None
    intrinsics_source: str = "assumed"
    reports: Mapping[str, Mapping[str, Any]] | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """Scores, quality card and tags of one clip; JSON types only."""

    scores: Scores
    quality: dict[str, dict[str, Any]]
    tags: list[str]


def assess(signals: ClipSignals, settings: ScoringSettings) -> Assessment:
    """Judges one clip."""
    scores = _scores(signals, settings)
    quality = {"masks": _masks_card(signals), "tracks": _tracks_card(signals), "depth": _depth_card(signals)}
    tags = set(signals.tags)
    for card in quality.values():
        tags.update(card["tags"])
    return Assessment(scores, quality, sorted(tags))


def _scores(signals: ClipSignals, settings: ScoringSettings) -> Scores:
    parts: dict[str, float | None] = {
        "task": task_score(signals.language_instruction),
        "length": length_score(signals.n_frames, settings),
        "displacement": None,
        "mask": None if signals.masks is None else mask_score(signals.masks, settings),
        "depth": None,
    }
    foreground = (signals.tracks or {}).get("foreground")
    if foreground is not None:
        parts["displacement"] = displacement_score(
            foreground["xy"], foreground["visibility"], foreground["on_object"], settings
        )
    if signals.depth is not None and signals.depth_kind is not None:
        parts["depth"] = depth_score(depth_dynamic_range(signals.depth, signals.depth_kind), settings)
    return combine(parts, settings)


def _card(status: str, numbers: Mapping[str, Any], reasons: list[str], tags: list[str]) -> dict[str, Any]:
    return {"status": status, "numbers": dict(numbers), "reasons": reasons, "tags": tags}


def _masks_card(signals: ClipSignals) -> dict[str, Any]:
    if signals.masks is None:
        return _card("absent", {}, ["not extracted"], [])
    areas = signals.masks.reshape(signals.n_frames, -1).mean(axis=1)
    numbers = {"coverage_median": round(float(np.median(areas)), 5), "frames_with_mask": int((areas > 0).sum())}
    recorded = ((signals.reports or {}).get("masks") or {}).get("recorded_j")
    if recorded is not None:
        numbers["recorded_j"] = recorded
    if not (areas > 0).any():
        return _card("fail", numbers, ["no object was found in any frame"], ["no-mask"])
    return _card("pass", numbers, [], [])


def _tracks_card(signals: ClipSignals) -> dict[str, Any]:
    if not signals.tracks:
        return _card("absent", {}, ["not extracted"], [])
    numbers = {
        f"{name}_visible_mean": round(float(fields["visibility"].mean()), 4) for name, fields in signals.tracks.items()
    }
    if "foreground" not in signals.tracks:
        return _card("warn", numbers, ["no foreground set: there is no object mask"], ["no-foreground-tracks"])
    return _card("pass", numbers, [], [])


def _depth_card(signals: ClipSignals) -> dict[str, Any]:
    if signals.depth is None or signals.depth_kind is None:
        return _card("absent", {}, ["not extracted"], [])
    dynamic_range = depth_dynamic_range(signals.depth, signals.depth_kind)
    return _card("pass", {"dynamic_range": dynamic_range, "kind": signals.depth_kind}, [], [])
