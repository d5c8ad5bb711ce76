"""The object's masks: missing, flickering, frozen, jumping, too large or small, or on the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.timing import WINDOW_S, frames_in
from scoring.card import Card, frames_text
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals

_PLAIN, _SWINGING, _LEAPING = 0.002, 0.001, 0.0006
"""Mask areas, shares of the frame, below which a mask may vanish at once, swing in area, or leap without a fault: 100,
50 and 30 pixels of 224 x 224, where a finger covers most of the object."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskNumbers:
    """Area and place of a mask in time.

    Attributes:
        area: (T,) share of the frame.
        centre: (T, 2) mean (x, y) in widths, NaN without a mask.
        fps: frames per second.
    """

    area: NDArray[np.float64]
    centre: NDArray[np.float64]
    fps: float

    @property
    def window(self) -> int:
        """Frames of `WINDOW_S`."""
        return frames_in(WINDOW_S, self.fps)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(T,) the mask is not empty."""
        return self.area > 0

    @property
    def travel(self) -> float | None:
        """Farthest that the centre gets from where it is first, widths; None with fewer than two masks."""
        ends = self.ends
        return None if ends is None else float(np.linalg.norm(self.centre[ends[1]] - self.centre[ends[0]]))

    @property
    def ends(self) -> tuple[int, int] | None:
        """First frame with a mask, and the one in which its centre is farthest from there."""
        present = np.flatnonzero(self.present)
        if len(present) < 2:
            return None
        far = np.linalg.norm(self.centre[present] - self.centre[present[0]], axis=1)
        return int(present[0]), int(present[int(np.argmax(far))])

    @property
    def coverage(self) -> float:
        """Median share of the frame, of frames with a mask."""
        return float(np.median(self.area[self.present])) if self.present.any() else 0.0


def measure_masks(masks: NDArray[np.bool_], fps: float) -> MaskNumbers:
    """Area and centre of `masks` (T, H, W), a clip of `fps` frames a second."""
    height, width = masks.shape[1:]
    rows, columns = masks.sum(axis=2, dtype=np.int64), masks.sum(axis=1, dtype=np.int64)
    area = rows.sum(axis=1)
    total = np.where(area > 0, area, np.nan).astype(np.float64)
    centre = np.stack([columns @ np.arange(width) / total, rows @ np.arange(height) / total], axis=1)
    return MaskNumbers(area / (height * width), centre / width, fps)


def flicker(numbers: MaskNumbers) -> NDArray[np.float64]:
    """(T,) how far each area is off the median of itself and those beside it, relative to the larger; 0 at the ends.

    Beside it are its neighbours, which tell a mask that swings from frame to frame, and all within 0.2 s, which tell
    one that swings for longer than a frame of a fast clip.
    """
    return np.maximum(_off_median(numbers.area, 1), _off_median(numbers.area, numbers.window))


def _off_median(area: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    off = np.zeros(len(area))
    reach = min(reach, (len(area) - 1) // 2)
    if reach > 0:
        inner = area[reach : len(area) - reach]
        middle = np.median(np.lib.stride_tricks.sliding_window_view(area, 2 * reach + 1), axis=1)
        off[reach : len(area) - reach] = np.abs(inner - middle) / np.maximum(np.maximum(middle, inner), 1e-12)
    return off


def judge_masks(signals: ClipSignals, numbers: MaskNumbers, settings: ScoringSettings) -> Card:
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
    card.numbers["travel"] = numbers.travel
    if not present.any():
        card.add("no-mask", "fail", "no object was found in any frame")
        return card
    _judge_size(card, numbers, settings)
    _judge_time(card, numbers, settings)
    # Clips of few frames a second leave an object time to go far between two of them; a camera at the wrist carries
    # still objects across the picture.
    reach = max(settings.mask_jump, settings.object_speed / signals.fps)
    _judge_jumps(card, signals.masks, numbers, reach * (3 if signals.camera_moves else 1))
    _judge_frozen(card, signals, numbers, settings)
    _judge_robot(card, signals, numbers, settings)
    return card


def _judge_size(card: Card, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    if numbers.coverage > settings.mask_huge:
        card.add("mask-too-large", "fail", f"the mask covers {numbers.coverage:.0%} of the frame: the background?")
    area = float(np.median(numbers.area[numbers.present]))
    if area < settings.mask_tiny:
        card.add("mask-tiny", "warn", f"the mask covers {area:.3%} of the frame in the median")


def _judge_time(card: Card, numbers: MaskNumbers, settings: ScoringSettings) -> None:
    """Masks that vanish at once rather than being covered bit by bit, and areas that go to and fro."""
    area, present = numbers.area, numbers.present
    usual = float(np.median(area[present]))
    off = flicker(numbers)
    beside = np.pad(area, numbers.window)
    largest = np.lib.stride_tricks.sliding_window_view(beside, 2 * numbers.window + 1).max(axis=1)
    # Small masks change by much of their area when a finger covers them.
    swings = (off > settings.flicker_change) & (largest > _SWINGING)
    card.numbers |= {"flicker_share": float(swings.mean()), "area_change_max": float(off.max())}
    whole = max(0.5 * usual, _PLAIN)
    lost = np.flatnonzero(~present[1:] & (area[:-1] >= whole)) + 1
    gained = np.flatnonzero(present[1:] & ~present[:-1] & (area[1:] >= whole))
    gaps = sorted({int(frame) for frame in lost} | {int(frame) for frame in gained})
    least = frames_in(settings.flicker_least_s, numbers.fps)
    flickers = swings.sum() >= max(least, settings.flicker_share * len(area))
    if flickers:
        card.add("mask-flicker", "fail", f"the area swings in {frames_text(np.flatnonzero(swings))}")
    elif gaps:
        blank = int((~present).sum())
        card.add(
            "mask-gaps", "fail", f"a whole mask vanishes or appears at {frames_text(gaps)}; {blank} frames have none"
        )


def _judge_jumps(card: Card, masks: NDArray[np.bool_], numbers: MaskNumbers, least: float) -> None:
    step = np.linalg.norm(np.diff(numbers.centre, axis=0), axis=1)
    candidates = np.flatnonzero(np.nan_to_num(step) > least)
    jumps = [
        int(t) + 1
        for t in candidates
        if not (masks[t] & masks[t + 1]).any() and numbers.area[t : t + 2].min() > _LEAPING
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
    start, least = 0, frames_in(settings.frozen_s, numbers.fps)
    for t, equal in enumerate([*same, False]):
        if equal:
            continue
        length = t - start
        if length >= least:
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
        shared = (signals.masks & signals.robot).mean(axis=(1, 2))[numbers.present] / numbers.area[numbers.present]
        overlap = float(np.median(shared))
        card.numbers["on_robot"] = overlap
        if overlap > settings.robot_overlap:
            card.add("mask-on-robot", "fail", f"{overlap:.0%} of the mask is on the robot")
        return
    travel = _travel_before_grasp(signals.gripper, numbers)
    card.numbers["travel_before_grasp"] = travel
    if travel is not None and travel > settings.mask_before_grasp:
        reason = f"the mask travels {travel:.0%} of the frame's width before the gripper closes: it may be on the arm"
        card.add("mask-on-robot", "warn", reason)


def _travel_before_grasp(gripper: NDArray[np.floating] | None, numbers: MaskNumbers) -> float | None:
    """Widths that the mask's centre goes while the gripper has not begun to close; None without a grasp."""
    if gripper is None or not np.isfinite(gripper).all() or np.ptp(gripper) < 0.3 or gripper[0] < 0.6 * gripper.max():
        return None
    closing = int(np.argmax(gripper < gripper[0] - 0.1 * np.ptp(gripper)))
    centre = numbers.centre[:closing][numbers.present[:closing]]
    if not len(centre):
        return None
    return float(np.linalg.norm(centre - centre[0], axis=1).max())
