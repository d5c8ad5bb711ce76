"""Proprioception: dead, saturated, jerky and missing actions, and a gripper that chatters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extractors.timing import WINDOW_S, frames_in
from scoring.card import Card, Severity, frames_text
from scoring.frames import Motion
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals


@dataclass(frozen=True, slots=True)
class ActionNumbers:
    """What an action sequence is like, at 5 commands a second; None where it cannot be measured.

    Faster commands are averaged to that rate: between two of 30 a second, noise and the last digit outweigh the motion,
    and the same motion would jerk less the faster it is sampled.

    Attributes:
        dead: share of commands that ask for nothing: zero where commands are steps, unchanged where they are targets.
        saturated: share of values at the limit of their column, columns that move only.
        jerk: RMS second difference of the commanded velocity over its RMS, median of the columns: 0 for a constant,
            (2 pi / P)^2 for a sine of P commands, 2.45 for white noise.
        gripper_changes: times that the gripper goes from open to closed or back.
        seconds: of commands that this was measured on.
    """

    dead: float | None = None
    saturated: float | None = None
    jerk: float | None = None
    gripper_changes: int | None = None
    seconds: float = 0.0


def measure_actions(
    action: NDArray[np.floating] | None,
    valid: NDArray[np.bool_] | None,
    gripper: NDArray[np.floating] | None,
    fps: float,
) -> ActionNumbers:
    """Numbers of `action` (T, A) at `fps` rows a second, rows by `valid` (T,), and `gripper` (T,) opening."""
    changes = None if gripper is None else count_gripper_changes(gripper)
    if action is None:
        return ActionNumbers(gripper_changes=changes)
    rows = _rows(action, valid)
    if len(rows) < 3:
        return ActionNumbers(gripper_changes=changes)
    columns = rows[:, [len(np.unique(column)) > 3 for column in rows.T]]  # a gripper's two values are not motion
    seconds = len(rows) / fps
    if not columns.shape[1]:
        return ActionNumbers(dead=1.0, gripper_changes=changes, seconds=seconds)
    slow = _averaged(columns, frames_in(WINDOW_S, fps))
    if len(slow) < 3:
        return ActionNumbers(saturated=_saturated_share(columns), gripper_changes=changes, seconds=seconds)
    velocity = slow if _are_steps(slow) else np.diff(slow, axis=0)
    scale = np.maximum(np.percentile(np.abs(velocity), 95, axis=0), 1e-9)
    size = np.abs(velocity / scale).max(axis=1)
    return ActionNumbers(
        dead=float((size < 0.02).mean()),
        saturated=_saturated_share(columns),
        jerk=_jerk(velocity),
        gripper_changes=changes,
        seconds=seconds,
    )


def count_gripper_changes(gripper: NDArray[np.floating]) -> int:
    """Reversals of a gripper opening (T,), with hysteresis at 30 % and 70 % of its range; 0 where it hardly moves."""
    opening = gripper[np.isfinite(gripper)].astype(np.float64)
    if len(opening) < 2 or np.ptp(opening) < 0.1:
        return 0
    level = (opening - opening.min()) / np.ptp(opening)
    sides = [value > 0.5 for value in level if value < 0.3 or value > 0.7]
    return sum(a != b for a, b in pairwise(sides))


def dead_actions_score(numbers: ActionNumbers) -> float | None:
    """The share of actions that are not dead."""
    return None if numbers.dead is None else 1 - numbers.dead


def jerk_score(numbers: ActionNumbers, settings: ScoringSettings) -> float | None:
    """1 up to `jerk_full`, 0 from `jerk_zero`."""
    if numbers.jerk is None:
        return None
    return float(np.clip((settings.jerk_zero - numbers.jerk) / (settings.jerk_zero - settings.jerk_full), 0, 1))


def chatter_score(numbers: ActionNumbers, settings: ScoringSettings) -> float | None:
    """1 up to `grip_changes_full` reversals, 0 from `grip_changes_zero`."""
    if numbers.gripper_changes is None:
        return None
    span = settings.grip_changes_zero - settings.grip_changes_full
    return float(np.clip((settings.grip_changes_zero - numbers.gripper_changes) / span, 0, 1))


def judge_actions(signals: ClipSignals, motion: Motion, numbers: ActionNumbers, settings: ScoringSettings) -> Card:
    """The card of the actions and the gripper."""
    card = Card()
    card.numbers |= {
        "dead_share": numbers.dead,
        "saturated_share": numbers.saturated,
        "jerk": numbers.jerk,
        "gripper_changes": numbers.gripper_changes,
    }
    if signals.action is not None:
        _judge_missing_rows(card, signals)
    if numbers.dead is not None and numbers.dead > settings.dead_share and motion.moves:
        card.add("still-actions", "fail", f"{numbers.dead:.0%} of the actions command nothing, yet the picture moves")
    if numbers.saturated is not None and numbers.saturated > settings.saturation_share:
        card.add("saturated-actions", "warn", f"{numbers.saturated:.0%} of the action values are at their limit")
    if numbers.jerk is not None and numbers.jerk > settings.jerk_fault and numbers.seconds >= settings.jerk_least_s:
        card.add("jerky-actions", "warn", f"jerk ratio {numbers.jerk:.2f}: nearly the 2.45 of white noise")
    if numbers.gripper_changes is not None and numbers.gripper_changes >= settings.grip_changes_fault:
        card.add("gripper-chatter", "warn", f"the gripper reverses {numbers.gripper_changes} times")
    return card


def _judge_missing_rows(card: Card, signals: ClipSignals) -> None:
    assert signals.action is not None
    missing: NDArray[np.bool_] = np.asarray(~np.isfinite(signals.action).all(axis=1))
    if signals.action_valid is not None:
        missing |= ~signals.action_valid
    inner = np.flatnonzero(missing[:-1])  # the last frame has no command in most data sets
    card.numbers["rows_without_action"] = int(missing.sum())
    if len(inner):
        severity: Severity = "fail" if missing.mean() > 0.2 else "warn"
        card.add("missing-actions", severity, f"no action at {frames_text(inner)}")


def _rows(action: NDArray[np.floating], valid: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    usable: NDArray[np.bool_] = np.asarray(np.isfinite(action).all(axis=1))
    if valid is not None:
        usable = usable & valid
    return np.asarray(action[usable], np.float64)


def _averaged(columns: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """(n, A) means of `window` rows each; rows that do not fill a last window are left out."""
    whole = len(columns) // window
    return np.asarray(columns[: whole * window].reshape(whole, window, columns.shape[1]).mean(axis=1))


def _are_steps(columns: NDArray[np.float64]) -> bool:
    """Whether commands are steps, which return to zero, rather than targets, which wander off."""
    centre = np.abs(np.median(columns, axis=0))
    wander = np.abs(np.diff(columns, axis=0)).mean(axis=0)
    spread = np.maximum(columns.std(axis=0), 1e-9)
    return bool(np.median(centre / spread) < 1.0 and np.median(wander / spread) > 0.12)


def _saturated_share(columns: NDArray[np.float64]) -> float:
    """Values within 0.1 % of their column's range from its ends, the extremes themselves not counted."""
    low, high = columns.min(axis=0), columns.max(axis=0)
    near = 1e-3 * (high - low)
    at_limit = (columns <= low + near).sum(axis=0) + (columns >= high - near).sum(axis=0)
    return float((np.maximum(at_limit - 2, 0) / len(columns)).mean())


def _jerk(velocity: NDArray[np.float64]) -> float | None:
    if len(velocity) < 5:
        return None
    second = np.sqrt(np.square(np.diff(velocity, n=2, axis=0)).mean(axis=0))
    size = np.sqrt(np.square(velocity - velocity.mean(axis=0)).mean(axis=0))
    moving = size > 1e-9
    return float(np.median(second[moving] / size[moving])) if moving.any() else None
