"""How fast robot and object move in the image, and what the robot is doing: phases from contact and motion.

No learned model and no language: what is not sure from the signals is "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.phases import PHASES
from extractors.timing import WINDOW_S, frames_in
from extractors.types import Contact, SceneTracks

WIDTH_M = 0.64
"""What a frame's width spans at 1 m distance, metres: the scale by which the speeds of `PhaseRule` were set."""


@dataclass(frozen=True, slots=True)
class PhaseRule:
    """Thresholds of `find_phases`; the speeds are those of `extractors.contact.ContactRule`.

    Attributes:
        object_speed: widths per second from which the object moves: about 5 mm/s at 1 m.
        onset_share: share of the object's own top speed in a touch from which it is carried, if that is more; slower is
            the squeeze of closing fingers. A tenth is how motor control cuts reaching movements: it needs no scale.
        robot_speed: widths per second from which the robot moves; an arm that waits jitters less.
        touch: contact probability from which the robot touches.
        pause_s: pauses and starts shorter than this are taken for what is around them, seconds.
        near: distance from the object's mask within which its points count, widths: the error of a mask.
        pour_deg: turn of a held object in the image, since the touch began, from which it is poured from, degrees.
    """

    object_speed: float = 0.0078
    onset_share: float = 0.1
    robot_speed: float = 0.0156
    touch: float = 0.5
    pause_s: float = 0.25
    near: float = 0.018
    pour_deg: float = 45.0


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How a clip moves, frame by frame.

    Attributes:
        phase: (T,) uint8, codes of `PHASES`.
        robot, object: (T,) float32, speeds in the image, widths per second; NaN where not known.
        active: (first frame, frame after the last) in which either moves; (0, 0) where nothing does.
    """

    phase: NDArray[np.uint8]
    robot: NDArray[np.float32]
    object: NDArray[np.float32]
    active: tuple[int, int]


def describe_motion(
    timestamp: NDArray[np.float64],
    *,
    tracks: SceneTracks | None = None,
    masks: NDArray[np.bool_] | None = None,
    robot_masks: NDArray[np.bool_] | None = None,
    contact: Contact | None = None,
    hand: NDArray[np.floating] | None = None,
    camera_moves: bool | None = None,
    rule: PhaseRule | None = None,
) -> Motion:
    """Speeds, active span and phases of one clip, from what is there.

    Args:
        timestamp: (T,) seconds, increasing.
        tracks: points on the object and off it, in pixels of the masks.
        masks: (T, H, W) bool, the object.
        robot_masks: (T, H, W) bool.
        contact: of `estimate_contact`; None: every phase is "unknown".
        hand: (T, 3) metres in any frame that rests; tells when the robot moves, more surely than the image does.
        camera_moves: speeds in the image are then not known; None: taken as still.
        rule: thresholds.
    """
    rule = rule or PhaseRule()
    unknown = np.full(len(timestamp), np.nan, np.float32)
    thing, robot, turn = unknown, unknown, unknown
    if tracks is not None and not camera_moves:
        own = _near_mask(tracks, masks, rule.near)
        thing = motion_speed(tracks.xy, tracks.seen, own, timestamp, tracks.width)
        robot = _robot_speed(tracks, robot_masks, timestamp, rule)
        turn = _turn(tracks, own, contact, rule.touch)
    by_hand = unknown if hand is None else _hand_speed(hand, timestamp)
    travel = np.where(np.isfinite(by_hand), by_hand, robot)
    moving = np.fmax(travel / rule.robot_speed, thing / rule.object_speed)
    phase = np.zeros(len(timestamp), np.uint8)
    if contact is not None:
        # What is held moves with the hand, also where the hand hides it.
        thing_too = np.where(np.isnan(thing) & contact.held, travel, thing)
        phase = find_phases(contact.probability, contact.held, thing_too, travel, timestamp, rule, turn=turn)
    return Motion(phase, robot, thing, active_span(moving, 1.0) or (0, 0))


def motion_speed(
    xy: NDArray[np.float32],
    visibility: NDArray[np.bool_],
    of: NDArray[np.bool_],
    timestamp: NDArray[np.float64],
    width: int,
) -> NDArray[np.float32]:
    """Speed of a group of points in the image.

    Args:
        xy: (T, N, 2) pixels.
        visibility: (T, N).
        of: (N,) or (T, N) bool, the points of the group; (T, N) for a robot found by its mask frame by frame.
        timestamp: (T,) seconds, increasing.
        width: of the frame, pixels.

    Returns:
        (T,) float32, widths per second: the median, over points that are of the group and seen at both ends, of how far
        they go in `WINDOW_S` around the frame (at least from the frame before to the frame after), by the time between;
        NaN where there is no such point, or one frame alone.

    Raises:
        ShapeError: shapes do not fit.
    """
    frames, points = visibility.shape
    if xy.shape != (frames, points, 2) or timestamp.shape != (frames,) or of.shape[-1] != points:
        raise ShapeError(f"wanted xy ({frames}, {points}, 2), of (..., {points}), timestamp ({frames},)")
    distance, seconds, usable = _steps(xy, np.broadcast_to(of, visibility.shape) & visibility, timestamp)
    speeds = np.full(frames, np.nan, np.float32)
    for frame in np.flatnonzero(usable.any(axis=1)):
        speeds[frame] = np.median(distance[frame, usable[frame]]) / width / seconds[frame]
    return speeds


def active_span(speeds: NDArray[np.float32], least: float) -> tuple[int, int] | None:
    """First frame, and frame after the last, in which `speeds` (T,) reach `least`; None where they never do."""
    moving = np.flatnonzero(np.nan_to_num(speeds) >= least)
    return (int(moving[0]), int(moving[-1]) + 1) if len(moving) else None


def find_phases(
    contact: NDArray[np.float32],
    held: NDArray[np.bool_],
    object_speed: NDArray[np.float32],
    robot_speed: NDArray[np.float32],
    timestamp: NDArray[np.float64],
    rule: PhaseRule | None = None,
    *,
    turn: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """What the robot is doing in each frame.

    A touch with a grasp is "grasp" until the object is carried, "release" from when it last rests, "transport"
    between, and "pour" within that where it is turned far; one without is "push" while the object moves. Before the
    first touch the robot approaches once it moves, after the last it retracts as long as it does, else it is idle.
    Between two touches it is not sure: "unknown", as is a touch in which the object's speed is not known.

    Args:
        contact: (T,) probability of a touch.
        held: (T,) whether the object is grasped.
        object_speed: (T,) widths per second, NaN where not known.
        robot_speed: the same of the robot.
        timestamp: (T,) seconds.
        rule: thresholds.
        turn: (T,) degrees by which the object is turned in the image since the touch began, NaN where not known.

    Returns:
        (T,) uint8 codes of `PHASES`.
    """
    rule = rule or PhaseRule()
    touch = _bridged(contact >= rule.touch, timestamp, rule.pause_s)
    codes = np.zeros(len(contact), np.uint8)
    runs = _runs(touch)
    for start, stop in runs:
        codes[start:stop] = _touching(slice(start, stop), held, object_speed, timestamp, rule)
    if turn is not None:
        far = _bridged(np.nan_to_num(turn) >= rule.pour_deg, timestamp, rule.pause_s)
        codes[far & (codes == PHASES.index("transport"))] = PHASES.index("pour")
    first, last = (runs[0][0], runs[-1][1]) if runs else (len(codes), len(codes))
    measured = np.isfinite(robot_speed)
    moving = _bridged(measured & (robot_speed >= rule.robot_speed), timestamp, rule.pause_s)
    free = np.where(measured, PHASES.index("idle"), PHASES.index("unknown")).astype(np.uint8)
    codes[:first], codes[last:] = free[:first], free[last:]
    if runs:
        started = np.flatnonzero(moving[:first])
        if len(started):
            codes[started[0] : first] = PHASES.index("approach")
        leaving = np.flatnonzero(moving[last:])
        if len(leaving):
            codes[last : last + leaving[-1] + 1] = PHASES.index("retract")
    return codes


def _near_mask(tracks: SceneTracks, masks: NDArray[np.bool_] | None, near: float) -> NDArray[np.bool_]:
    """(T, N) the object's points that are on its mask, or `near` it: others were left behind, or lost."""
    own = np.broadcast_to(np.asarray(tracks.on_object, np.bool_), tracks.seen.shape).copy()
    if masks is None:
        return own
    for t, mask in enumerate(masks):
        if mask.any():
            distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
            own[t] &= _sampled(distance, tracks.xy[t], np.inf) <= near * tracks.width
    return own


def _sampled(picture: NDArray[Any], xy: NDArray[np.floating], outside: float) -> NDArray[Any]:
    """Values (N,) of `picture` (H, W) at the pixels nearest to `xy` (N, 2)."""
    height, width = picture.shape
    # Far beyond the frame, or NaN, does not fit an integer.
    x, y = np.rint(np.clip(np.nan_to_num(xy, nan=-1.0), -1, 1e6)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return np.where(inside, picture[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], outside)


def _robot_speed(
    tracks: SceneTracks, robot_masks: NDArray[np.bool_] | None, timestamp: NDArray[np.float64], rule: PhaseRule
) -> NDArray[np.float32]:
    """Speed of the points on the robot's mask; without masks, of the points off the object that move, else 0."""
    scene = tracks.seen & ~np.asarray(tracks.on_object, np.bool_)
    if robot_masks is not None:
        of = np.stack([_sampled(mask, xy, 0.0) > 0 for mask, xy in zip(robot_masks, tracks.xy, strict=True)])
        return motion_speed(tracks.xy, scene, of, timestamp, tracks.width)
    distance, seconds, usable = _steps(tracks.xy, scene, timestamp)
    speeds = distance / tracks.width / np.maximum(seconds, 1e-9)[:, None]
    moving = usable & (speeds >= rule.robot_speed)
    found = np.where(usable.any(axis=1), 0.0, np.nan)
    for frame in np.flatnonzero(moving.any(axis=1)):
        found[frame] = np.median(speeds[frame, moving[frame]])
    return found.astype(np.float32)


def _hand_speed(hand: NDArray[np.floating], timestamp: NDArray[np.float64]) -> NDArray[np.float32]:
    """Speed of positions (T, 3) in metres, as widths per second at 1 m."""
    seen = np.isfinite(hand).all(axis=1)
    distance, seconds, usable = _steps(hand[:, None], seen[:, None], timestamp)
    speeds = distance[:, 0] / WIDTH_M / np.maximum(seconds, 1e-9)
    return np.where(usable[:, 0], speeds, np.nan).astype(np.float32)


def _turn(tracks: SceneTracks, own: NDArray[np.bool_], contact: Contact | None, touch: float) -> NDArray[np.float32]:
    """Degrees (T,) by which the object's points are turned in the image since each touch began; NaN without one.

    The angle of the similarity that fits best (Umeyama 1991), over points seen in both frames, at least three.
    """
    found = np.full(len(own), np.nan, np.float32)
    seen = own & tracks.seen
    for start, stop in [] if contact is None else _runs(contact.probability >= touch):
        for t in range(start, stop):
            both = seen[start] & seen[t]
            if both.sum() < 3:
                continue
            a, b = (np.asarray(tracks.xy[k, both], np.float64) for k in (start, t))
            a, b = a - a.mean(axis=0), b - b.mean(axis=0)
            cross = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
            found[t] = abs(np.degrees(np.arctan2(cross, (a * b).sum())))
    return found


def _steps(
    xy: NDArray[np.floating], visibility: NDArray[np.bool_], timestamp: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """How far points go around each frame (T, N), in how many seconds (T,), and whether both ends are seen (T, N)."""
    frames = len(visibility)
    reach = 1 if frames < 2 else frames_in(WINDOW_S / 2, 1 / float(np.median(np.diff(timestamp))))
    before, after = np.maximum(np.arange(frames) - reach, 0), np.minimum(np.arange(frames) + reach, frames - 1)
    usable = visibility[before] & visibility[after] & (before < after)[:, None]
    distance = np.linalg.norm(xy[after].astype(np.float64) - xy[before], axis=2)
    return distance, timestamp[after] - timestamp[before], usable


def _touching(
    span: slice, held: NDArray[np.bool_], speed: NDArray[np.float32], timestamp: NDArray[np.float64], rule: PhaseRule
) -> NDArray[np.uint8]:
    """Codes of one touch."""
    measured = np.isfinite(speed[span])
    floor = measured & (speed[span] >= rule.object_speed)
    top = float(np.quantile(speed[span][floor], 0.9)) if floor.any() else 0.0
    carried = measured & (speed[span] >= max(rule.object_speed, rule.onset_share * top))
    moving = _bridged(carried, timestamp[span], rule.pause_s)
    codes = np.zeros(len(moving), np.uint8)
    if not held[span].any():
        codes[moving] = PHASES.index("push")
        return codes
    travel = np.flatnonzero(moving)
    if not len(travel):
        codes[measured] = PHASES.index("grasp")
        return codes
    codes[: travel[0]] = PHASES.index("grasp")
    codes[travel[0] : travel[-1] + 1] = PHASES.index("transport")
    codes[travel[-1] + 1 :] = PHASES.index("release")
    codes[~_bridged(measured, timestamp[span], rule.pause_s)] = PHASES.index("unknown")
    return codes


def _bridged(flags: NDArray[np.bool_], timestamp: NDArray[np.float64], pause_s: float) -> NDArray[np.bool_]:
    """`flags` with gaps closed and then runs removed that are shorter than `pause_s`; a frame lasts to the next one.

    Single frames are kept where frames are further apart than that.
    """
    step = float(np.median(np.diff(timestamp))) if len(timestamp) > 1 else 0.0
    found = flags.copy()
    for value in (False, True):
        for start, stop in _runs(found == value):
            inner = value or (start > 0 and stop < len(found))
            if inner and (stop - start) * step < pause_s - 1e-9:
                found[start:stop] = not value
    return found


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, stop) of each run of True."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))
