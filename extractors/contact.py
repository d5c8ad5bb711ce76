"""When the robot touches the object: the gripper's own signal, and what the object does in the image.

Two stories are looked for. A grasp: the gripper closes, the object moves with it, until the gripper opens. A push: the
object moves while the robot is next to it, whatever the gripper does. A gripper that closes apart from the object, or
while the object stays where it is, has closed on nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.geometry import as_masks
from extractors.types import Contact


@dataclass(frozen=True, slots=True)
class ContactRule:
    """Thresholds of `estimate_contact`. Lengths are in pixels of a 224-pixel-wide frame and follow its width.

    Attributes:
        min_gripper_range: least range of opening over the clip (0 to 1) that is a signal; sensor noise of a resting
            gripper stays below (0.02 in the BridgeData sample).
        touch_fraction: where, between its open and its held opening, a closing gripper is taken to touch: the median
            over simulated grasps of six tasks, in which objects of a third of the gripper's width are met by one finger
            first.
        max_early_frames: the touch is never put further than this before the gripper stops, which is where a slow
            gripper on a rigid object touches.
        stall_fraction: closing per frame below which the gripper has stopped, of the clip's range.
        release_fraction: how far back towards open the gripper is when it lets go.
        quiet_px: object motion per frame below which it rests: about 1 mm at 1 m, and several times a tracker's jitter.
        moving_px: motion per frame that makes it a push: about 2 mm at 1 m.
        slow_px: motion per frame that counts as well where it goes on for `slow_frames` right before faster motion:
            fingers that press on an object shift it slowly before it yields.
        slow_frames: least length of such slow motion.
        noise_factor: the three are raised to this many times the jitter of the static background, where that is larger.
        min_travel_px: a push moves the object at least this far in all; less is jitter or a shadow.
        near_px: distance between robot and object mask within which they may touch: one pixel of gap, and the mask
            error of either.
        near_track_px: the same where the robot is known only by points that move, a grid spacing (11 px) apart.
        bridge_frames: pauses of a push up to this long do not end it.
        wait_frames: a grasped object moves at the latest this long after the gripper has stopped (2 s at 5 Hz).
        command_delay_frames: from a commanded closing to the touch, where only commands are known.
        camera_px: median background motion per frame above which the camera moves; image motion then says nothing
            about contact and the gripper alone decides.
    """

    min_gripper_range: float = 0.1
    touch_fraction: float = 0.3
    max_early_frames: int = 2
    stall_fraction: float = 0.03
    release_fraction: float = 0.5
    quiet_px: float = 0.35
    moving_px: float = 0.7
    slow_px: float = 0.15
    slow_frames: int = 4
    noise_factor: float = 1.0
    min_travel_px: float = 1.5
    near_px: float = 4.0
    near_track_px: float = 20.0
    bridge_frames: int = 3
    wait_frames: int = 10
    command_delay_frames: int = 2
    camera_px: float = 1.0


PROBABILITY = {
    "grasp seen": 0.96,
    "grasp by gripper": 0.84,
    "push": 0.68,
    "closing nearby": 0.06,
    "closed on nothing": 0.07,
    "no evidence": 0.12,
    "apart": 0.02,
}
"""Probability of contact given what was recognised in a frame: the frequencies in 25 simulated fixed-camera episodes of
18 tasks with exact contact (Meta-World; the 8 of groundtruth_dev and 17 recorded like them)."""


class _Grip(NamedTuple):
    """One closing of the gripper: frames at which it starts, touches, stops, and lets go (one past the last)."""

    start: int
    touch: int
    stall: int
    release: int


def estimate_contact(
    gripper: NDArray[Any] | None,
    *,
    action_gripper: NDArray[Any] | None = None,
    masks: NDArray[np.bool_] | None = None,
    tracks_xy: NDArray[Any] | None = None,
    visibility: NDArray[np.bool_] | None = None,
    on_object: NDArray[np.bool_] | None = None,
    robot_masks: NDArray[np.bool_] | None = None,
    fps: float | None = None,
    n_frames: int | None = None,
    rule: ContactRule | None = None,
) -> Contact:
    """Probability of touch, frame by frame, from what is there of gripper, masks and tracks.

    Args:
        gripper: (T,) opening, 1 open, 0 closed; None or constant: vision alone decides, and nothing counts as held.
        action_gripper: (T,) commanded opening, used where `gripper` is None.
        masks: (T, H, W) bool, the object; gives the frame's width.
        tracks_xy: (T, N, 2) pixels of `masks`, or of frames 224 wide where there are none; on the object and off it
            (those tell what the camera and the robot do).
        visibility: (T, N) bool.
        on_object: (N,) bool.
        robot_masks: (T, H, W) bool.
        fps: frames per second; recorded in the report.
        n_frames: T, needed where all arrays are None.
        rule: thresholds; None: `ContactRule()`.

    Returns:
        Contact over T frames; a low constant probability where nothing can be known.

    Raises:
        ShapeError: arrays of different lengths, or tracks without visibility and on_object.
        GeometryError: an opening that is not within -0.5 to 1.5 (scale it first).
    """
    rule = rule or ContactRule()
    n = _length(n_frames, gripper, action_gripper, masks, tracks_xy, visibility, robot_masks)
    masks = None if masks is None else as_masks(masks)
    scene = _look(masks, tracks_xy, visibility, on_object, robot_masks, rule)
    grips, openness, signal = _gripper_story(gripper, action_gripper, rule)
    pushes = [] if scene.motion is None else _pushes(scene, openness, rule)
    probability = np.full(n, PROBABILITY["apart" if grips or scene.motion is not None else "no evidence"])
    held = np.zeros(n, np.bool_)
    for start, stop in pushes:
        probability[start:stop] = PROBABILITY["push"]
    for grip in grips:
        _add_grip(grip, pushes, scene, probability, held, rule)
    above = np.flatnonzero(probability > 0.5)
    return Contact(
        probability=probability.astype(np.float32),
        onset=int(above[0]) if len(above) else -1,
        held=held,
        report={
            "gripper_signal": signal,
            "closings": [list(grip) for grip in grips],
            "pushes": [list(push) for push in pushes],
            "vision": scene.cue,
            "fps": fps,
            "rule": asdict(rule),
        },
    )


class _Scene(NamedTuple):
    """What the image says.

    Attributes:
        motion: (T,) object motion since the frame before, pixels at 224 wide, NaN unknown; None if all of it is.
        near: (T,) bool, the robot is next to the object; None if unknown.
        noise: jitter of what rests, pixels per frame.
        cue: where that is from.
    """

    motion: NDArray[np.float64] | None
    near: NDArray[np.bool_] | None
    noise: float
    cue: str


def _look(
    masks: NDArray[np.bool_] | None,
    xy: NDArray[Any] | None,
    visibility: NDArray[np.bool_] | None,
    on_object: NDArray[np.bool_] | None,
    robot_masks: NDArray[np.bool_] | None,
    rule: ContactRule,
) -> _Scene:
    scale = 1.0 if masks is None else 224.0 / masks.shape[2]
    near = None
    if masks is not None and robot_masks is not None:
        if robot_masks.shape != masks.shape:
            raise ShapeError(f"robot masks must be of the masks' size {masks.shape}, got {robot_masks.shape}")
        near = np.array([_gap(m, r) * scale <= rule.near_px for m, r in zip(masks, as_masks(robot_masks), strict=True)])
    if xy is None and masks is None:
        return _Scene(None, None, 0.0, "none")
    if xy is None or on_object is None or not np.asarray(on_object).any():
        if masks is None:
            return _Scene(None, None, 0.0, "no track on the object")
        # A mask's mean shifts when something covers it: twice the threshold of tracks.
        return _Scene(_mask_motion(masks) * scale, near, 2 * rule.quiet_px / rule.noise_factor, "masks")
    if visibility is None or visibility.shape != xy.shape[:2] or np.shape(on_object) != xy.shape[1:2]:
        raise ShapeError(f"tracks {xy.shape} need visibility (T, N) and on_object (N,); got others or None")
    step = np.diff(np.asarray(xy, np.float64), axis=0) * scale
    seen = np.asarray(visibility[1:] & visibility[:-1]) & np.isfinite(step).all(-1)
    background, noise, camera = _background(step, seen & ~np.asarray(on_object))
    if camera > rule.camera_px:
        return _Scene(None, None, 0.0, "moving camera")
    lengths = np.linalg.norm(step - background[:, None], axis=-1)
    # The length of a jittering step is never zero: what the background's jitter adds in the square is taken off.
    steps = _row_median(lengths, seen & np.asarray(on_object))
    motion = np.concatenate([[0.0], np.sqrt(np.maximum(np.square(steps) - noise**2, 0.0))])
    if near is None and masks is not None:
        robot = seen & ~np.asarray(on_object) & (lengths > max(rule.moving_px, 3 * noise))
        near = _near_tracks(masks, np.asarray(xy, np.float64), robot, rule.near_track_px / scale)
    return _Scene(motion, near, noise, "tracks")


def _background(step: NDArray[np.float64], seen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float, float]:
    """Median motion of what is not the object (T-1, 2), its jitter, and how much it moves, pixels per frame."""
    median = np.stack([_row_median(step[..., k], seen) for k in (0, 1)], axis=-1)
    median = np.where(np.isfinite(median), median, 0.0)
    jitter = _row_median(np.linalg.norm(step - median[:, None], axis=-1), seen)
    known = jitter[np.isfinite(jitter)]
    noise = float(np.median(known)) if len(known) else 0.0
    return median, noise, float(np.median(np.linalg.norm(median, axis=-1))) if len(median) else 0.0


def _row_median(values: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(len(values), np.nan)
    for t in np.flatnonzero(use.any(axis=1)):
        out[t] = np.median(values[t][use[t]])
    return out


def _mask_motion(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Shift of the mask's mean per frame, pixels; NaN beside frames without a mask."""
    area = masks.sum(axis=(1, 2))
    safe = np.where(area > 0, area, 1)
    x = (masks.sum(axis=1) @ np.arange(masks.shape[2])) / safe
    y = (masks.sum(axis=2) @ np.arange(masks.shape[1])) / safe
    centre = np.where((area > 0)[:, None], np.stack([x, y], axis=-1), np.nan)
    return np.concatenate([[0.0], np.linalg.norm(np.diff(centre, axis=0), axis=-1)])


def _gap(mask: NDArray[np.bool_], robot: NDArray[np.bool_]) -> float:
    """Smallest distance between two masks, pixels; infinite if one is empty."""
    if not mask.any() or not robot.any():
        return float("inf")
    distance = cv2.distanceTransform((~robot).astype(np.uint8), cv2.DIST_L2, 5)
    return float(distance[mask].min())


def _near_tracks(
    masks: NDArray[np.bool_], xy: NDArray[np.float64], robot: NDArray[np.bool_], reach_px: float
) -> NDArray[np.bool_]:
    """Whether a moving point that is not the object's lies within reach of the object's mask, frame by frame."""
    near = np.zeros(len(masks), np.bool_)
    height, width = masks.shape[1:]
    for t in range(1, len(masks)):
        points = np.rint(xy[t][robot[t - 1]]).astype(int)
        points = points[(points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)]
        if len(points) and masks[t].any():
            distance = cv2.distanceTransform((~masks[t]).astype(np.uint8), cv2.DIST_L2, 5)
            near[t] = distance[points[:, 1], points[:, 0]].min() <= reach_px
    # The robot stops to grasp: it is still where it was a few frames ago.
    return np.asarray(cv2.dilate(near.astype(np.uint8)[None], np.ones((1, 7), np.uint8))[0], np.bool_)


def _pushes(scene: _Scene, openness: NDArray[np.float64] | None, rule: ContactRule) -> list[tuple[int, int]]:
    """Stretches (first, one past the last) in which the object moves while the robot may touch it."""
    assert scene.motion is not None
    motion = np.where(np.isfinite(scene.motion), scene.motion, 0.0)
    floor = rule.noise_factor * scene.noise
    active = motion > max(rule.quiet_px, floor)
    settled = _settled(active, openness, rule)
    for start, stop in _runs(motion > max(rule.slow_px, floor)):
        fast = np.flatnonzero(active[start:stop]) + start
        if len(fast):
            lead = start if fast[0] - start >= rule.slow_frames else fast[0]
            active[lead : fast[-1]] = True
    active[:settled] = False
    runs = []
    for start, stop in _runs(_bridged(active, rule.bridge_frames)):
        if motion[start:stop].max() < max(rule.moving_px, floor) or motion[start:stop].sum() < rule.min_travel_px:
            continue
        close = np.ones(stop - start, np.bool_) if scene.near is None else scene.near[start:stop]
        runs += [(start + a, start + b) for a, b in _runs(_bridged(close, rule.bridge_frames))]
    return runs


def _settled(active: NDArray[np.bool_], openness: NDArray[np.float64] | None, rule: ContactRule) -> int:
    """First frame after the scene has settled: what moves from the first step on, under an open gripper, is untouched.

    Objects are put down, dropped or bounce when a recording starts, with pauses between. Without a gripper signal only
    the motion up to the first pause is taken for that.
    """
    moving = _runs(active if openness is None else _bridged(active, rule.bridge_frames))
    if not moving or moving[0][0] > 1:
        return 0
    start, stop = moving[0]
    closed = stop if openness is None else next((t for t in range(start, stop) if openness[t] <= 0.5), stop)
    if closed == start:
        return 0
    # What was in motion when the gripper closed comes to rest first.
    return next((t for t in range(closed, stop) if not active[t]), stop)


def _gripper_story(
    gripper: NDArray[Any] | None, action_gripper: NDArray[Any] | None, rule: ContactRule
) -> tuple[list[_Grip], NDArray[np.float64] | None, str]:
    """Closings of the gripper, its openness over the clip's own range, and which signal that came from."""
    source, name = (gripper, "state") if gripper is not None else (action_gripper, "command")
    if source is None:
        return [], None, "none"
    opening = np.asarray(source, np.float64)
    known = np.isfinite(opening)
    if not known.any():
        return [], None, "none"
    if opening[known].min() < -0.5 or opening[known].max() > 1.5:
        raise GeometryError(
            f"a gripper opening goes from 0 (closed) to 1 (open), got {opening[known].min():g} to "
            f"{opening[known].max():g}; scale it to its own convention first"
        )
    opening = np.interp(np.arange(len(opening)), np.flatnonzero(known), opening[known])
    low, high = float(opening.min()), float(opening.max())
    if high - low < rule.min_gripper_range:
        return [], None, f"{name}, constant"
    openness = (opening - low) / (high - low)
    delay = 0 if name == "state" else rule.command_delay_frames
    return (
        [_grip(openness, start, stop, delay, rule) for start, stop in _runs(openness < 0.5) if start > 0],
        (openness),
        name,
    )


def _grip(openness: NDArray[np.float64], first: int, stop: int, delay: int, rule: ContactRule) -> _Grip:
    """The closing around frame `first`, the first one less than half open; `stop` is the first more than half open."""
    start = first
    while start > 0 and openness[start - 1] > openness[start] + 1e-3:
        start -= 1
    stall = first
    while stall + 1 < stop and openness[stall] - openness[stall + 1] > rule.stall_fraction:
        stall += 1
    held = float(np.median(openness[stall:stop]))
    fraction = (openness - held) / max(openness[start] - held, 1e-9)
    touch = next((t for t in range(first, stall + 1) if fraction[t] <= rule.touch_fraction), stall)
    touch = max(touch, stall - rule.max_early_frames) + delay
    let_go = next((t for t in range(stall, stop) if fraction[t] > rule.release_fraction), stop)
    return _Grip(start, min(touch, stop - 1), min(stall + delay, stop - 1), let_go)


def _add_grip(
    grip: _Grip,
    pushes: list[tuple[int, int]],
    scene: _Scene,
    probability: NDArray[np.float64],
    held: NDArray[np.bool_],
    rule: ContactRule,
) -> None:
    """Writes one closing of the gripper into the clip."""
    if scene.motion is None:
        probability[grip.touch : grip.release] = PROBABILITY["grasp by gripper"]
        held[grip.touch : grip.release] = True
        return
    motions = [p for p in pushes if p[1] > grip.start and p[0] < grip.release]
    # Squeezing shifts the object, or lifting moves it soon after; what moves later was met by closed fingers.
    moved = next((p for p in motions if p[0] <= grip.stall + rule.wait_frames), None)
    apart = scene.near is not None and not scene.near[grip.touch : grip.stall + 1].any()
    if moved is None or apart:
        quiet = slice(grip.touch, grip.release)
        probability[quiet] = np.maximum(probability[quiet], PROBABILITY["closed on nothing"])
        return
    touch = grip.touch
    if scene.cue == "tracks" and grip.start <= moved[0] <= grip.stall:
        # Two estimates of one moment with errors of one size: what a finger nudges has not always been gripped, and
        # what is gripped has not always moved.
        touch = (grip.touch + moved[0]) // 2
    # What moves between the gripper's start and the touch is the same event, seen early.
    probability[grip.start : touch] = PROBABILITY["closing nearby"]
    probability[touch : grip.release] = PROBABILITY["grasp seen"]
    held[grip.touch : grip.release] = True


def _bridged(active: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """`active` with inner pauses of up to `gap` frames filled."""
    out = active.copy()
    for start, stop in _runs(~active):
        if start > 0 and stop < len(active) and stop - start <= gap:
            out[start:stop] = True
    return out


def _runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _length(n_frames: int | None, *arrays: NDArray[Any] | None) -> int:
    lengths = {len(a) for a in arrays if a is not None} | ({n_frames} if n_frames is not None else set())
    if len(lengths) != 1:
        raise ShapeError(f"contact needs arrays of one length (or n_frames), got lengths {sorted(lengths)}")
    return int(lengths.pop())
