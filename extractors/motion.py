"""How fast robot and object move in the image, and what the robot is doing: phases told from contact and motion.

No learned model and no language: what is not sure from the signals is "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.timing import WINDOW_S, frames_in

PHASES = ("unknown", "idle", "approach", "grasp", "transport", "release", "retract", "push")
"""Names by code, as `find_phases` gives them."""


@dataclass(frozen=True, slots=True)
class PhaseRule:
    """Thresholds of `find_phases`; the speeds are those of `extractors.contact.ContactRule`.

    Attributes:
        object_speed: widths per second from which the object moves: about 5 mm/s at 1 m.
        robot_speed: widths per second from which the robot moves; an arm that waits jitters less.
        touch: contact probability from which the robot touches.
        pause_s: pauses and starts shorter than this are taken for what is around them, seconds.
    """

    object_speed: float = 0.0078
    robot_speed: float = 0.0156
    touch: float = 0.5
    pause_s: float = 0.25


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
        of: (N,) or (T, N) bool, the points of the group; (T, N) for a robot told by its mask frame by frame.
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
    reach = 1 if frames < 2 else frames_in(WINDOW_S / 2, 1 / float(np.median(np.diff(timestamp))))
    before, after = np.maximum(np.arange(frames) - reach, 0), np.minimum(np.arange(frames) + reach, frames - 1)
    group = np.broadcast_to(of, visibility.shape) & visibility
    usable = group[before] & group[after] & (before < after)[:, None]
    distance = np.linalg.norm(xy[after].astype(np.float64) - xy[before], axis=2)
    speeds = np.full(frames, np.nan, np.float32)
    for frame in np.flatnonzero(usable.any(axis=1)):
        seconds = timestamp[after[frame]] - timestamp[before[frame]]
        speeds[frame] = np.median(distance[frame, usable[frame]]) / width / seconds
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
) -> NDArray[np.uint8]:
    """What the robot is doing in each frame.

    A touch with a grasp is "grasp" until the object first moves, "release" from when it last rests, "transport"
    between; one without is "push" where the object moves. Before the first touch the robot approaches once it moves,
    after the last it retracts as long as it does, else it is idle. Between two touches it is not sure: "unknown", as is
    a touch in which the object's speed is not known.

    Args:
        contact: (T,) probability of a touch.
        held: (T,) whether the object is grasped.
        object_speed: (T,) widths per second, NaN where not known.
        robot_speed: the same of the robot.
        timestamp: (T,) seconds.
        rule: thresholds.

    Returns:
        (T,) uint8 codes of `PHASES`.
    """
    rule = rule or PhaseRule()
    touch = _bridged(contact >= rule.touch, timestamp, rule.pause_s)
    codes = np.zeros(len(contact), np.uint8)
    runs = _runs(touch)
    for start, stop in runs:
        codes[start:stop] = _touching(slice(start, stop), held, object_speed, timestamp, rule)
    first, last = (runs[0][0], runs[-1][1]) if runs else (len(codes), len(codes))
    known = np.isfinite(robot_speed)
    moving = _bridged(known & (robot_speed >= rule.robot_speed), timestamp, rule.pause_s)
    free = np.where(known, PHASES.index("idle"), PHASES.index("unknown")).astype(np.uint8)
    codes[:first], codes[last:] = free[:first], free[last:]
    if runs:
        started = np.flatnonzero(moving[:first])
        if len(started):
            codes[started[0] : first] = PHASES.index("approach")
        leaving = np.flatnonzero(moving[last:])
        if len(leaving):
            codes[last : last + leaving[-1] + 1] = PHASES.index("retract")
    return codes


def phase_ends(codes: NDArray[np.uint8]) -> list[tuple[str, int, int]]:
    """(name, first frame, last frame) of each phase but "unknown": its start and its sub-goal."""
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    spans = pairwise(edges)
    return [(PHASES[codes[start]], start, stop - 1) for start, stop in spans if start < stop and codes[start]]


def _touching(
    span: slice, held: NDArray[np.bool_], speed: NDArray[np.float32], timestamp: NDArray[np.float64], rule: PhaseRule
) -> NDArray[np.uint8]:
    """Codes of one touch."""
    known = np.isfinite(speed[span])
    moving = _bridged(known & (speed[span] >= rule.object_speed), timestamp[span], rule.pause_s)
    codes = np.zeros(len(moving), np.uint8)
    if not held[span].any():
        codes[moving] = PHASES.index("push")
        return codes
    travel = np.flatnonzero(moving)
    if not len(travel):
        codes[known] = PHASES.index("grasp")
        return codes
    codes[: travel[0]] = PHASES.index("grasp")
    codes[travel[0] : travel[-1] + 1] = PHASES.index("transport")
    codes[travel[-1] + 1 :] = PHASES.index("release")
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
