"""The verdict on a clip: scores, a quality card per modality, and tags that say what the clip is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scoring.actions import ActionNumbers, chatter_score, dead_actions_score, jerk_score, judge_actions, measure_actions
from scoring.card import Card, absent
from scoring.criteria import (
    Scores,
    combine,
    depth_score,
    displacement_score,
    length_score,
    mask_score,
    task_score,
)
from scoring.depth import dynamic_range, judge_depth
from scoring.frames import judge_frames, measure_motion
from scoring.geometry import judge_calibration, judge_contact, judge_geometry, judge_motion
from scoring.masks import MaskNumbers, judge_masks, measure_masks
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals
from scoring.tracks import follows_object, judge_tracks, object_excursion

__all__ = ["Assessment", "ClipSignals", "assess"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assessment:
    """Scores, quality card and tags of one clip; JSON types only.

    Attributes:
        scores: sub-scores, `score` and `weight_missing`, see `scoring.criteria.combine`.
        quality: modality (`frames`, `actions`, `masks`, `depth`, `tracks`, `geometry`, `contact`, `calibration`,
            `motion`) -> `status`
            ("pass", "warn", "fail" or "absent"), raw `numbers`, `reasons` in words, `tags`.
        tags: the source's and every card's, sorted.
    """

    scores: Scores
    quality: dict[str, dict[str, Any]]
    tags: list[str]


def assess(signals: ClipSignals, settings: ScoringSettings) -> Assessment:
    """Judges one clip."""
    motion = measure_motion(signals.pixels, signals.fps)
    masks = None if signals.masks is None else measure_masks(signals.masks, signals.fps)
    actions = measure_actions(signals.action, signals.action_valid, signals.gripper, signals.fps)
    judges: dict[str, Callable[[], Card] | None] = {
        "frames": lambda: judge_frames(signals, motion, settings),
        "actions": (lambda: judge_actions(signals, motion, actions, settings))
        if signals.action is not None or signals.gripper is not None
        else None,
        "masks": None if masks is None else lambda: judge_masks(signals, masks, settings),
        "depth": (lambda: judge_depth(signals, motion, settings)) if _has_depth(signals) else None,
        "tracks": (lambda: judge_tracks(signals, masks, motion, settings)) if signals.tracks else None,
        "geometry": lambda: judge_geometry(signals, masks),
        "contact": None if signals.contact is None else lambda: judge_contact(signals),
        "calibration": (lambda: judge_calibration(signals)) if _has_hand(signals) else None,
        "motion": None if signals.phase is None else lambda: judge_motion(signals),
    }
    quality = {name: absent() if judge is None else _card(name, judge) for name, judge in judges.items()}
    tags = set(signals.tags).union(*(card["tags"] for card in quality.values()))
    foreground = (signals.tracks or {}).get("foreground")
    excursion = None
    # Points that were left behind, or lost on the way, say that the object did not move.
    if foreground is not None and "frozen-tracks" not in tags and follows_object(foreground, masks):
        excursion = object_excursion(foreground, signals.pixels.shape[2], camera_moves=signals.camera_moves)
    # Where the object's points do not tell, its mask does: its middle also shifts where an arm covers half of it.
    travel = excursion if excursion is not None or masks is None else masks.travel
    # Properties of the clip, not faults of a signal.
    if travel is not None and travel < settings.low_motion:
        tags.add("low-motion")
    if signals.camera_moves:
        tags.add("moving-camera")
    calibration = (signals.reports or {}).get("calibration") or {}
    tags |= {"calibrated-by-hand", "time-offset"} & set(calibration.get("tags") or ())
    return Assessment(_scores(signals, masks, actions, excursion, settings), quality, sorted(tags))


def _card(name: str, judge: Callable[[], Card]) -> dict[str, Any]:
    """The judge's card; of one that stumbles over a clip, a card that says so: a number is not worth an episode."""
    try:
        return judge().as_json()
    except (ArithmeticError, ValueError, IndexError) as error:
        _LOG.exception("the card of %s could not be made", name)
        card = absent(f"not judged ({type(error).__name__}: {error}); please report the clip")
        return card | {"tags": ["not-judged"]}


def _has_hand(signals: ClipSignals) -> bool:
    """Whether the hand's pose is known, so that it could calibrate the camera."""
    hand = ((signals.reports or {}).get("calibration") or {}).get("hand")
    return hand is not None and "reason" not in hand


def _has_depth(signals: ClipSignals) -> bool:
    return signals.depth is not None and signals.depth_kind is not None


def _scores(
    signals: ClipSignals,
    masks: MaskNumbers | None,
    actions: ActionNumbers,
    excursion: float | None,
    settings: ScoringSettings,
) -> Scores:
    depth = None
    if signals.depth is not None and signals.depth_kind is not None:
        depth = depth_score(dynamic_range(signals.depth, signals.depth_kind), settings)
    parts: dict[str, float | None] = {
        "task": task_score(signals.language_instruction, settings),
        "length": length_score(signals.n_frames, signals.fps, settings),
        "displacement": displacement_score(excursion, settings),
        "mask": None if masks is None else mask_score(masks, settings),
        "depth": depth,
        "dead_actions": dead_actions_score(actions),
        "jerk": jerk_score(actions, settings),
        "chatter": chatter_score(actions, settings),
    }
    return combine(parts, settings)
