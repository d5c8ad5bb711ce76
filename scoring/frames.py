"""The pictures of a clip and their times: black, blank, repeated, missing, foreign and shuffled frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.cuts import is_black
from extractors.timing import WINDOW_S, frames_in
from scoring.card import Card, Severity, frames_text
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals

THUMBNAIL = 56
"""Side of the grey pictures that changes are measured on, whatever the packet's size: a quarter of 224 pixels, which
averages sensor noise away."""

_ORDER_S = 0.4
"""Time after which a picture in motion must have gone farther than after one frame, seconds: two frames of 0.2 s."""

_CATCH_UP_S = 0.6
"""Time around a frame shown twice in which the picture may leap, catching up, seconds."""

_NOISE_LEVEL = 0.25
"""Grey-level change between neighbours that a camera's noise and a codec make by themselves, on thumbnails."""


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How the picture changes, on grey thumbnails.

    Attributes:
        grey: (T, 56, 56) float32, 0 to 255.
        step1: (T-1,) mean absolute change from a frame to the next, brightness changes as a whole taken out.
        step2: (T-2,) the same to the next but one.
        window: (n,) the same within `WINDOW_S`, or within the whole of a shorter clip.
        order: (n,) the same within `_ORDER_S`; empty for shorter clips.
        fps: frames per second.
    """

    grey: NDArray[np.float32]
    step1: NDArray[np.float32]
    step2: NDArray[np.float32]
    window: NDArray[np.float32]
    order: NDArray[np.float32]
    fps: float

    @property
    def moves(self) -> bool:
        """Whether anything but noise changes in the clip."""
        return bool(len(self.window)) and float(np.percentile(self.window, 90)) > 0.3

    def step_level(self, level: float) -> float:
        """A change of `level` within `WINDOW_S` as one between neighbours; no more than `level` in slow clips."""
        return level * min(1.0, 1 / (WINDOW_S * self.fps))

    def static_pixels(self, level: float = 10.0, share: float = 0.8) -> NDArray[np.bool_]:
        """(56, 56) pixels that show the clip's median picture, within `level`, in `share` of the frames."""
        near = np.abs(self.grey - np.median(self.grey, axis=0)) < level
        static: NDArray[np.bool_] = near.mean(axis=0) >= share
        return static


def measure_motion(pixels: NDArray[np.uint8], fps: float) -> Motion:
    """Thumbnails of `pixels` (T, H, W, 3), `fps` a second, and the changes between them."""
    side = (THUMBNAIL, THUMBNAIL)
    small = [cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in pixels]
    # ITU-R BT.601 luma.
    grey = (np.stack(small).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    window = min(frames_in(WINDOW_S, fps), max(len(pixels) - 1, 1))
    step1, step2 = _change(centred, 1), _change(centred, 2)
    # A clip of 5 frames/s has its neighbours for windows, and its next but one for the order.
    known = {1: step1, 2: step2}
    within, order = (
        known[lag] if lag in known else _change(centred, lag) for lag in (window, frames_in(_ORDER_S, fps, least=2))
    )
    return Motion(grey, step1, step2, within, order, fps)


def judge_frames(signals: ClipSignals, motion: Motion, settings: ScoringSettings) -> Card:
    """The card of the pictures and time stamps."""
    card = Card()
    spoilt = _judge_exposure(card, signals, motion, settings)
    card.numbers |= {
        "frames": signals.n_frames,
        "moving_camera": signals.camera_moves,
        "change_median": float(np.median(motion.window)) if len(motion.window) else 0.0,
    }
    if signals.n_frames > 2:
        _judge_foreign(card, motion, spoilt, settings)
        _judge_order(card, motion, spoilt, settings)
        _judge_repeats(card, signals, motion, spoilt, settings)
        _judge_missing(card, signals, motion, spoilt, settings)
    if not motion.moves and signals.n_frames > 1:
        card.add("low-motion", "warn", "nothing moves in the picture")
    _judge_times(card, signals, settings)
    return card


def _judge_exposure(card: Card, signals: ClipSignals, motion: Motion, settings: ScoringSettings) -> NDArray[np.bool_]:
    """Black, saturated and blank frames; returns (T,) which those are."""
    black = np.array([is_black(frame) for frame in signals.pixels], np.bool_)
    white = (motion.grey >= settings.white_level).mean(axis=(1, 2)) > settings.saturated_share
    blank = (motion.grey.std(axis=(1, 2)) < settings.blank_contrast) & ~black & ~white
    kinds = (
        ("black-frames", "black", black),
        ("saturated-frames", "saturated", white),
        ("blank-frames", "blank", blank),
    )
    for tag, word, found in kinds:
        card.numbers[tag.replace("-", "_")] = int(found.sum())
        if found.any():
            where = np.flatnonzero(found)
            severity: Severity = "fail" if found.mean() > 0.1 else "warn"
            card.add(tag, severity, f"{len(where)} of {len(found)} frames are {word} ({frames_text(where)})")
    return np.asarray(black | white | blank)


def _judge_foreign(card: Card, motion: Motion, spoilt: NDArray[np.bool_], settings: ScoringSettings) -> None:
    """Frames that belong to neither neighbour: unlike both, which resemble each other."""
    step1, step2 = motion.step1, motion.step2
    away = np.minimum(step1[:-1], step1[1:])
    foreign = (away > settings.glitch_level) & (away > settings.glitch_factor * step2)
    foreign &= ~(spoilt[:-2] | spoilt[1:-1] | spoilt[2:])
    card.numbers["foreign_frames"] = int(foreign.sum())
    if foreign.any():
        where = np.flatnonzero(foreign) + 1
        card.add("foreign-frames", "fail", f"{frames_text(where)}: unlike both neighbours, which are alike")


def _judge_order(card: Card, motion: Motion, spoilt: NDArray[np.bool_], settings: ScoringSettings) -> None:
    """Frames out of order.

    Frames in order make the shortest path: exchanging t and t+1 lengthens |t-1, t| + |t+1, t+2|. Good clips have a
    ratio of 0.86 and more wherever the picture moves at all, exchanged frames about 0.5.
    """
    step1, step2 = motion.step1, motion.step2
    ordered, swapped = step1[:-2] + step1[2:], step2[:-1] + step2[1:]
    clean = ~(spoilt[:-3] | spoilt[1:-2] | spoilt[2:-1] | spoilt[3:])
    # Where two neighbours of a fast clip differ by little, that is a codec's noise, whose order cannot be told: the
    # level is the same at any rate (measured on a LeRobot video of 30 frames/s, where 0.25 gave false alarms).
    wrong = clean & (ordered > 2 * settings.motion_level) & (swapped < settings.order_ratio * ordered)
    card.numbers["out_of_order"] = int(wrong.sum())
    # Over the whole clip: after 0.4 s the picture has gone farther than after one frame, 1.34 times at the least seen.
    lag = frames_in(_ORDER_S, motion.fps, least=2)
    usual = float(np.median(step1))
    later = float(np.median(motion.order)) if len(step1) > 3 * lag else np.inf
    if (
        usual > max(motion.step_level(settings.motion_level), _NOISE_LEVEL)
        and settings.motion_level < later < settings.order_gain * usual
    ):
        reason = "frames 0.4 s apart are as alike as neighbours: the order is lost"
        card.add("shuffled-frames", "fail", reason)
    elif wrong.any():
        where = np.flatnonzero(wrong) + 1
        card.add("shuffled-frames", "fail", f"out of order near {frames_text(where)}: the picture jumps to and fro")


def _judge_repeats(
    card: Card, signals: ClipSignals, motion: Motion, spoilt: NDArray[np.bool_], settings: ScoringSettings
) -> None:
    """Runs of equal frames amid motion. A robot that rests slows down first, and its camera's noise goes on."""
    same = (motion.step1 < settings.duplicate_level) & ~(spoilt[:-1] | spoilt[1:])
    moving = motion.step1 > motion.step_level(settings.motion_level)
    travel = _state_travel(signals)
    repeats: list[int] = []
    longest, lasting = 0, frames_in(settings.frozen_s, motion.fps)
    for start, past in _runs(same):
        entered = start > 0 and bool(moving[start - 1])
        left = past < len(same) and bool(moving[past])
        moved = travel is not None and float(travel[start:past].sum()) > 0.2 * float(travel.sum())
        # One side may be the clip's own end; then proprioception, or a sudden stop of some length, must tell.
        sudden = (entered and past == len(same)) or (left and start == 0)
        if (entered and left) or (sudden and (moved or past - start >= lasting)) or (moved and past - start >= lasting):
            repeats += range(start + 1, past + 1)
            longest = max(longest, past - start)
    card.numbers |= {"equal_pairs": int(same.sum()), "repeated_frames": len(repeats)}
    if longest >= lasting:
        card.add("frozen-frames", "fail", f"the picture freezes for {longest + 1} frames amid motion")
    elif repeats:
        severity: Severity = "fail" if len(repeats) > 0.1 * len(same) else "warn"
        card.add("duplicate-frames", severity, f"{len(repeats)} frames repeat the one before: {frames_text(repeats)}")


def _judge_missing(
    card: Card, signals: ClipSignals, motion: Motion, spoilt: NDArray[np.bool_], settings: ScoringSettings
) -> None:
    """Frames that are missing: by the source's own numbering, or by a leap of picture and proprioception at once."""
    ids = signals.frame_ids
    if ids is not None and len(ids) == signals.n_frames and len(ids) > 1:
        steps = np.diff(np.asarray(ids, np.float64))
        gaps = np.flatnonzero(steps > 1.5 * np.median(steps))
        if len(gaps):
            card.add("dropped-frames", "fail", f"the source's frame numbers leave gaps after {frames_text(gaps)}")
            return
    travel = _state_travel(signals)
    if travel is None or len(travel) < 3:
        return
    # Neighbours of a fast clip differ by noise here and there, so a leap must stand out of the usual change as well.
    usual = max(motion.step_level(settings.motion_level), float(np.median(motion.step1)))
    picture = _peak_ratio(motion.step1, usual)
    state = _peak_ratio(travel, float(np.median(travel[travel > 0])) if (travel > 0).any() else 1.0)
    leap = (picture > settings.jump_ratio) & (state > settings.state_jump_ratio)
    # After a frame shown twice the picture catches up: that is no missing frame.
    reach = np.ones((1, 2 * frames_in(_CATCH_UP_S, motion.fps) + 1), np.uint8)
    repeated = (motion.step1 < settings.duplicate_level).astype(np.uint8)
    near_repeat = cv2.dilate(repeated[None], reach)[0] > 0
    leap &= ~(spoilt[1:-2] | spoilt[2:-1] | near_repeat[1:-1])
    card.numbers["leaps"] = int(leap.sum())
    if leap.any():
        where = np.flatnonzero(leap) + 1
        card.add(
            "dropped-frames", "fail", f"picture and state both leap after {frames_text(where)}: frames are missing"
        )


def _judge_times(card: Card, signals: ClipSignals, settings: ScoringSettings) -> None:
    steps = np.diff(signals.timestamp)
    if not len(steps):
        return
    usual = float(np.median(steps))
    card.numbers |= {"fps_declared": signals.fps, "fps_measured": 1 / usual if usual > 0 else None}
    if not np.isfinite(signals.timestamp).all() or (steps <= 0).any():
        bad = np.flatnonzero(~(steps > 0))
        card.add("timestamp-order", "fail", f"time does not go on after {frames_text(bad)}")
        return
    if abs(usual * signals.fps - 1) > settings.fps_tolerance:
        card.add("fps-mismatch", "fail", f"time stamps run at {1 / usual:.3g} frames/s, {signals.fps:.3g} is declared")
    gaps = np.flatnonzero(steps > settings.gap_factor * usual)
    if len(gaps):
        lost = int(np.rint(steps[gaps] / usual - 1).sum())
        card.add("timestamp-gap", "warn", f"time leaps after {frames_text(gaps)}: about {lost} frames are missing")


def _state_travel(signals: ClipSignals) -> NDArray[np.float64] | None:
    """(T-1,) how far proprioception moves per frame, each column by its own spread; None without a usable state."""
    state = signals.state
    if state is None or len(state) < 3 or not np.isfinite(state).all():
        return None
    spread = np.ptp(state.astype(np.float64), axis=0)
    used = spread > 1e-6
    if not used.any():
        return None
    travel: NDArray[np.float64] = np.abs(np.diff(state[:, used].astype(np.float64), axis=0) / spread[used]).mean(axis=1)
    return travel


def _peak_ratio(steps: NDArray[np.floating], floor: float) -> NDArray[np.float64]:
    """(len - 2,) each inner step over the larger of its neighbours, which count as `floor` at least."""
    around = np.maximum(np.maximum(steps[:-2], steps[2:]), floor)
    return np.asarray(steps[1:-1] / around, np.float64)


def _change(centred: NDArray[np.float32], lag: int) -> NDArray[np.float32]:
    """(T - lag,) mean absolute change over `lag` frames; empty for shorter clips."""
    # Frame by frame: a clip of 2,000 would otherwise need its thumbnails twice over.
    changes = [np.abs(b - a).mean() for a, b in zip(centred[:-lag], centred[lag:], strict=True)]
    return np.array(changes, np.float32)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, past) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
