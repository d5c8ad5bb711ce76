"""The object's masks: missing, flickering, frozen, jumping, too large or small, or on the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.card import Card, frames_text
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals

_PLAIN_PX = 100
"""Mask area, pixels, below which a mask may vanish from one frame to the next without a fault."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskNumbers:
    """Area and place of a mask in time.

    Attributes:
        area: (T,) pixels.
        centre: (T, 2) mean (x, y), NaN without a mask.
        frame_px: pixels of a frame.
    """

    area: NDArray[np.int64]
    centre: NDArray[np.float64]
    frame_px: int

    @property
    def present(self) -> NDArray[np.bool_]:
        """(T,) the mask is not empty."""
        return self.area > 0

    @property
    def travel_px(self) -> float | None:
        """Farthest that the centre gets from where it is first; None with fewer than two masks."""
        centre = self.centre[self.present]
        return float(np.linalg.norm(centre - centre[0], axis=1).max()) if len(centre) > 1 else None

    @property
    def coverage(self) -> float:
        """Median share of the frame, of frames with a mask."""
        return float(np.median(self.area[self.present])) / self.frame_px if self.present.any() else 0.0


def measure_masks(masks: NDArray[np.bool_]) -> MaskNumbers:
    """Area and centre of `masks` (T, H, W)."""
    height, width = masks.shape[1:]
    rows, columns = masks.sum(axis=2, dtype=np.int64), masks.sum(axis=1, dtype=np.int64)
    area = rows.sum(axis=1)
    total = np.where(area > 0, area, np.nan).astype(np.float64)
    centre = np.stack([columns @ np.arange(width) / total, rows @ np.arange(height) / total], axis=1)
    return MaskNumbers(area, centre, height * width)


def flicker(numbers: MaskNumbers) -> NDArray[np.float64]:
    """(T,) how far each area is off the median of itself and its neighbours, relative to the larger; 0 at the ends."""
    area = numbers.area.astype(np.float64)
    off = np.zeros(len(area))
    if len(area) > 2:
        middle = np.median(np.stack([area[:-2], area[1:-1], area[2:]]), axis=0)
        off[1:-1] = np.abs(area[1:-1] - middle) / np.maximum(np.maximum(middle, area[1:-1]), 1)
    return off


def judge_masks(signals: ClipSignals, numbers: MaskNumbers, settings: ScoringSettings, *, moving_camera: bool) -> Card:
    """The card of the object's masks."""
    assert signals.masks is not None
    card = Card()
    present = numbers.present
    card.numbers |= {"coverage_median": numbers.coverage, "frames_with_mask": int(present.sum())}
    if signals.mask_score is not None and present.any():
        card.numbers["score_median"] = float(np.median(signals.mask_score[present]))
    recorded = ((signals.reports or {}).get("masks") or {}).get("recorded_j")
    if recorded is not None:
        card.numbers["recorded_j"] = recorded
    card.numbers["travel_px"] = numbers.travel_px
    if not present.any():
        card.add("no-mask", "fail", "no object was found in any frame")
        return card
    _judge_size(card, numbers, settings)
    _judge_time(card, numbers, settings)
    # A camera at the wrist carries still objects across the picture from frame to frame.
    _judge_jumps(card, signals.masks, numbers, settings.mask_jump_px * (3 if moving_camera else 1))
    _judge_frozen(card, signals, numbers, settings)
    _judge_robot(card, signals, numbers, settings)
    return card


def _judge_size(card: Card, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    if numbers.coverage > settings.mask_huge:
        card.add("mask-too-large", "fail", f"the mask covers {numbers.coverage:.0%} of the frame: the background?")
    area = float(np.median(numbers.area[numbers.present]))
    if area < settings.mask_tiny_px:
        card.add("mask-tiny", "warn", f"the mask has {area:.0f} pixels in the median")


def _judge_time(card: Card, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    """Masks that vanish at once rather than being covered bit by bit, and areas that go to and fro."""
    area, present = numbers.area, numbers.present
    usual = float(np.median(area[present]))
    off = flicker(numbers)
    large = np.maximum(area, 0)
    # Small masks change by much of their area when a finger covers them.
    swings = (off > settings.flicker_change) & (np.maximum.reduce([large, np.roll(large, 1), np.roll(large, -1)]) > 50)
    card.numbers |= {"flicker_share": float(swings.mean()), "area_change_max": float(off.max())}
    whole = max(0.5 * usual, _PLAIN_PX)
    lost = np.flatnonzero(~present[1:] & (area[:-1] >= whole)) + 1
    gained = np.flatnonzero(present[1:] & ~present[:-1] & (area[1:] >= whole))
    gaps = sorted({int(frame) for frame in lost} | {int(frame) for frame in gained})
    flickers = swings.sum() >= max(3, settings.flicker_share * len(area))
    if flickers:
        card.add("mask-flicker", "fail", f"the area swings in {frames_text(np.flatnonzero(swings))}")
    elif gaps:
        blank = int((~present).sum())
        card.add(
            "mask-gaps", "fail", f"a whole mask vanishes or appears at {frames_text(gaps)}; {blank} frames have none"
        )


def _judge_jumps(card: Card, masks: NDArray[np.bool_], numbers: MaskNumbers, least_px: float) -> None:
    step = np.linalg.norm(np.diff(numbers.centre, axis=0), axis=1)
    candidates = np.flatnonzero(np.nan_to_num(step) > least_px)
    jumps = [
        int(t) + 1 for t in candidates if not (masks[t] & masks[t + 1]).any() and numbers.area[t : t + 2].min() > 30
    ]
    card.numbers["jumps"] = len(jumps)
    if jumps:
        card.add("mask-jump", "fail", f"the mask leaps elsewhere at {frames_text(jumps)}")


def _judge_frozen(card: Card, signals: ClipSignals, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    """A mask that stays to the pixel while what is under it changes: the object left, the mask did not."""
    assert signals.masks is not None
    same = [
        bool(a == b and a > 0) and bool(np.array_equal(first, second))
        for a, b, first, second in zip(
            numbers.area[:-1], numbers.area[1:], signals.masks[:-1], signals.masks[1:], strict=True
        )
    ]
    longest, change = 0, 0.0
    start = 0
    for t, equal in enumerate([*same, False]):
        if equal:
            continue
        length = t - start
        if length >= 4:
            under = _change_under(signals.pixels, signals.masks[start], start, t)
            if under > settings.frozen_change:
                longest, change = max(longest, length + 1), max(change, under)
        start = t + 1
    card.numbers["frozen_frames"] = longest
    if longest:
        card.add("frozen-mask", "fail", f"the mask is frozen for {longest} frames; its content changes by {change:.0f}")


def _change_under(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], first: int, last: int) -> float:
    """Largest mean colour change under `mask` from frame `first` to later ones, brightness as a whole taken out.

    The largest, not the last: an arm may pass. A lasting change is asked for: the median of the later half counts.
    """
    before = pixels[first][mask].astype(np.float32)
    times = np.unique(np.linspace((first + last) // 2, last, 5).astype(int))
    changes = []
    for t in times:
        difference = pixels[t][mask].astype(np.float32) - before
        changes.append(float(np.abs(difference - difference.mean(axis=0)).mean() + np.abs(difference.mean())))
    return float(np.median(changes))


def _judge_robot(card: Card, signals: ClipSignals, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    assert signals.masks is not None
    if signals.robot is not None and signals.robot.any():
        shared = (signals.masks & signals.robot).sum(axis=(1, 2))[numbers.present] / numbers.area[numbers.present]
        overlap = float(np.median(shared))
        card.numbers["on_robot"] = overlap
        if overlap > settings.robot_overlap:
            card.add("mask-on-robot", "fail", f"{overlap:.0%} of the mask lies on the robot")
        return
    travel = _travel_before_grasp(signals.gripper, numbers)
    card.numbers["travel_before_grasp_px"] = travel
    if travel is not None and travel > 2 * settings.mask_jump_px:
        reason = f"the mask travels {travel:.0f} px before the gripper closes: it may lie on the arm"
        card.add("mask-on-robot", "warn", reason)


def _travel_before_grasp(gripper: NDArray[np.floating] | None, numbers: MaskNumbers) -> float | None:
    """Pixels that the mask's centre goes while the gripper has not begun to close; None without a grasp."""
    if gripper is None or not np.isfinite(gripper).all() or np.ptp(gripper) < 0.3 or gripper[0] < 0.6 * gripper.max():
        return None
    closing = int(np.argmax(gripper < gripper[0] - 0.1 * np.ptp(gripper)))
    centre = numbers.centre[:closing][numbers.present[:closing]]
    if len(centre) < 3:
        return None
    return float(np.linalg.norm(centre - centre[0], axis=1).max())
