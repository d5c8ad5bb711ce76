"""When the robot touches the object: the gripper's own signal, and what the object does in the image.

Two stories are looked for. A grasp: the gripper closes, the object moves with it, until the gripper opens. A push: the
object moves while the robot is next to it, whatever the gripper does. A gripper that closes apart from the object, or
while the object stays where it is, has closed on nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.geometry import as_masks
from extractors.timing import WINDOW_S, frames_in
from extractors.types import Contact, SceneTracks


@dataclass(frozen=True, slots=True)
class ContactRule:
    """Thresholds of `estimate_contact`, in seconds and in shares of the frame's width.

    Speeds were set at BridgeData's 5 frames/s on frames of 224 pixels, where 1 pixel a frame is 0.022 widths a second.

    Attributes:
        min_gripper_range: least range of opening over the clip (0 to 1) that is a signal; sensor noise of a resting
            gripper stays below (0.02 in the BridgeData sample).
        touch_fraction: where, between its open and its held opening, a closing gripper is taken to touch: the median
            over simulated grasps of six tasks, in which objects of a third of the gripper's width are met by one finger
            first.
        max_early_s: the touch is never put further than this before the gripper stops, which is where a slow gripper on
            a rigid object touches; seconds.
        stall_rate: closing per second below which the gripper has stopped, of the clip's range.
        release_fraction: how far back towards open the gripper is when it lets go.
        quiet_speed: object motion, widths per second, below which it rests: about 5 mm/s at 1 m, and several times a
            tracker's jitter.
        moving_speed: motion that makes it a push: about 10 mm/s at 1 m.
        slow_speed: motion that counts as well where it goes on for `slow_s` right before faster motion: fingers that
            press on an object shift it slowly before it yields.
        slow_s: least length of such slow motion, seconds.
        noise_factor: the three are raised to this many times the jitter of the static background, where that is larger.
        min_travel: a push moves the object at least this far in all, widths; less is jitter or a shadow.
        near: distance between robot and object mask within which they may touch, widths: the error of either mask.
        near_track: the same where the robot is known only by points that move, whose grid is 0.05 widths wide.
        bridge_s: pauses of a push up to this long do not end it, seconds.
        wait_s: a grasped object moves at the latest this long after the gripper has stopped, seconds.
        return_travel: way that an object goes and comes back under closed fingers, widths, from which they hold it: a
            finger that presses cannot pull; several times what a thing's points shift when it is turned.
        command_delay_s: from a commanded closing to the touch, where only commands are known, seconds.
    """

    min_gripper_range: float = 0.1
    touch_fraction: float = 0.3
    max_early_s: float = 0.4
    stall_rate: float = 0.15
    release_fraction: float = 0.5
    quiet_speed: float = 0.0078
    moving_speed: float = 0.0156
    slow_speed: float = 0.0033
    slow_s: float = 0.8
    noise_factor: float = 1.0
    min_travel: float = 0.0067
    near: float = 0.018
    near_track: float = 0.09
    bridge_s: float = 0.6
    wait_s: float = 2.0
    return_travel: float = 0.03
    command_delay_s: float = 0.4


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


class _Frames(NamedTuple):
    """The rule at one clip's rate: counts of frames, and lengths in widths per window of `window` frames."""

    window: int
    early: int
    slow: int
    bridge: int
    wait: int
    delay: int
    stall: float
    quiet: float
    moving: float
    slowly: float

    @classmethod
    def of(cls, rule: ContactRule, fps: float, n_frames: int) -> _Frames:
        window = min(frames_in(WINDOW_S, fps), max(n_frames - 1, 1))
        seconds = window / fps
        return cls(
            window=window,
            early=frames_in(rule.max_early_s, fps, least=0),
            slow=frames_in(rule.slow_s, fps),
            bridge=frames_in(rule.bridge_s, fps, least=0),
            wait=frames_in(rule.wait_s, fps, least=0),
            delay=frames_in(rule.command_delay_s, fps, least=0),
            stall=rule.stall_rate * seconds,
            quiet=rule.quiet_speed * seconds,
            moving=rule.moving_speed * seconds,
            slowly=rule.slow_speed * seconds,
        )


class _Grip(NamedTuple):
    """One closing of the gripper: frames at which it starts, touches, stops, and lets go (one past the last)."""

    start: int
    touch: int
    stall: int
    release: int


def estimate_contact(
    gripper: NDArray[Any] | None,
    *,
    fps: float,
    action_gripper: NDArray[Any] | None = None,
    masks: NDArray[np.bool_] | None = None,
    robot_masks: NDArray[np.bool_] | None = None,
    tracks: SceneTracks | None = None,
    camera_moves: bool | None = None,
    n_frames: int | None = None,
    rule: ContactRule | None = None,
) -> Contact:
    """Probability of touch, frame by frame, from what is there of gripper, masks and tracks.

    Args:
        gripper: (T,) opening, 1 open, 0 closed; None or constant: vision alone decides, and nothing counts as held.
        fps: frames per second, in which the rule's seconds are counted.
        action_gripper: (T,) commanded opening, used where `gripper` is None.
        masks: (T, H, W) bool, the object.
        robot_masks: (T, H, W) bool.
        tracks: points on the object and off it (those tell what the robot does); of the masks' pixels.
        camera_moves: image motion then says nothing about contact and the gripper alone decides; None: not known,
            taken as still.
        n_frames: T, needed where all arrays are None.
        rule: thresholds; None: `ContactRule()`.

    Returns:
        Contact over T frames; a low constant probability where nothing can be known.

    Raises:
        ShapeError: arrays of different lengths or sizes.
        GeometryError: an opening that is not within -0.5 to 1.5 (scale it first), or a rate that is not above 0.
    """
    rule = rule or ContactRule()
    n = _length(n_frames, gripper, action_gripper, masks, None if tracks is None else tracks.xy, robot_masks)
    at_rate = _Frames.of(rule, fps, n)
    masks = None if masks is None else as_masks(masks)
    scene = _look(masks, robot_masks, tracks, bool(camera_moves), rule, at_rate)
    grips, openness, signal = _gripper_story(gripper, action_gripper, rule, at_rate)
    pushes = [] if scene.path is None else _pushes(scene.path, scene.near, openness, rule, at_rate)
    probability = np.full(n, PROBABILITY["apart" if grips or scene.path is not None else "no evidence"])
    held = np.zeros(n, np.bool_)
    # Grips after pushes: a closing of the gripper says more than the motion that goes with it.
    for start, stop in pushes:
        probability[start:stop] = PROBABILITY["push"]
    for grip in grips:
        _add_grip(grip, pushes, scene, probability, held, rule, at_rate)
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


class _Path(Protocol):
    """Where the object goes, in widths."""

    noise: float
    """Jitter of what rests, over one window."""

    def windows(self, length: int) -> NDArray[np.float64]:
        """(T - length,) how far the object gets from frame t to t + length, NaN unknown."""
        ...

    def between(self, first: int, last: int) -> float:
        """The same between two frames."""
        ...

    def returns(self, first: int, last: int, least: float) -> bool:
        """Whether the object goes `least` in some direction and then as far back, between two frames."""
        ...


class _Scene(NamedTuple):
    """What the image says.

    Attributes:
        path: the object's; None if it is unknown.
        near: (T,) bool, the robot is next to the object; None if unknown.
        cue: where that is from.
    """

    path: _Path | None
    near: NDArray[np.bool_] | None
    cue: str


def _look(
    masks: NDArray[np.bool_] | None,
    robot_masks: NDArray[np.bool_] | None,
    tracks: SceneTracks | None,
    camera_moves: bool,
    rule: ContactRule,
    at_rate: _Frames,
) -> _Scene:
    near = None
    if masks is not None and robot_masks is not None:
        if robot_masks.shape != masks.shape:
            raise ShapeError(f"robot masks must be of the masks' size {masks.shape}, got {robot_masks.shape}")
        reach = rule.near * masks.shape[2]
        near = np.array([_gap(m, r) <= reach for m, r in zip(masks, as_masks(robot_masks), strict=True)])
    if camera_moves:
        return _Scene(None, None, "moving camera")
    if tracks is None and masks is None:
        return _Scene(None, None, "none")
    if tracks is None or not np.asarray(tracks.on_object).any():
        if masks is None:
            return _Scene(None, None, "no track on the object")
        return _Scene(_MaskPath(masks), near, "masks")
    if masks is not None:
        tracks = _on_masks(tracks, masks, rule.near)
    path = _TrackPath(tracks, at_rate.window)
    if masks is None:
        return _Scene(path, near, "tracks")
    if near is None:
        robot = path.moving_scene_points(max(at_rate.moving, 3 * path.noise))
        near = _near_tracks(masks, tracks.xy, robot, rule.near_track * masks.shape[2], at_rate.bridge)
    return _Scene(_FilledPath(path, _MaskPath(masks)), near, "tracks")


def _on_masks(tracks: SceneTracks, masks: NDArray[np.bool_], near: float) -> SceneTracks:
    """The tracks without the samples of object points that are off the mask: those were left behind, or lost."""
    seen, own = tracks.seen.copy(), np.flatnonzero(tracks.on_object)
    height, width = masks.shape[1:]
    for t, mask in enumerate(masks):
        if not mask.any():
            continue
        x, y = np.rint(np.nan_to_num(tracks.xy[t, own])).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
        at = distance[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        seen[t, own] &= inside & (at <= near * width)
    return SceneTracks(tracks.xy, seen, tracks.on_object, tracks.width)


class _TrackPath:
    """The median path of the object's points, the background's motion taken off."""

    def __init__(self, tracks: SceneTracks, window: int) -> None:
        self._xy = np.asarray(tracks.xy, np.float64) / tracks.width
        self._seen, self._own = tracks.seen, np.asarray(tracks.on_object, np.bool_)
        self._window = window
        self._lengths, self._both = self._steps(slice(None, -window), slice(window, None))
        # What all of the scene does together is taken off, so the rest of its motion is jitter.
        jitter = _row_median(self._lengths, self._both & ~self._own)
        finite = jitter[np.isfinite(jitter)]
        self.noise = float(np.median(finite)) if len(finite) else 0.0

    def windows(self, length: int) -> NDArray[np.float64]:
        if length == self._window:
            return self._quieted(self._lengths, self._both)
        return self._quieted(*self._steps(slice(None, -length), slice(length, None)))

    def between(self, first: int, last: int) -> float:
        pair = slice(first, first + 1), slice(last, last + 1)
        return float(self._quieted(*self._steps(*pair))[0])

    def returns(self, first: int, last: int, least: float) -> bool:
        span = slice(first, last + 1)
        step = self._xy[span] - self._xy[first]
        both = self._seen[span] & self._seen[first]
        own, still = (
            np.stack([_row_median(step[..., k], both & of) for k in (0, 1)], axis=-1) for of in (self._own, ~self._own)
        )
        angle = np.arange(8) * np.pi / 4
        along = (own - np.nan_to_num(still)) @ np.stack([np.cos(angle), np.sin(angle)])
        farthest = np.fmax.accumulate(along, axis=0)
        return bool(((farthest >= least) & (farthest - along >= least)).any())

    def moving_scene_points(self, least: float) -> NDArray[np.bool_]:
        """(T, N) points off the object that move `least` in the window before a frame or the one after it."""
        moving = self._both & ~self._own & (self._lengths > least)
        out = np.zeros(self._seen.shape, np.bool_)
        out[self._window :] |= moving
        out[: len(out) - self._window] |= moving
        return out & self._seen

    def _steps(self, before: slice, after: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Lengths (n, N) of what every point moves more than the background, and where both ends are seen."""
        step = self._xy[after] - self._xy[before]
        both = self._seen[after] & self._seen[before]
        still = both & ~self._own
        background = np.stack([_row_median(step[..., k], still) for k in (0, 1)], axis=-1)
        return np.linalg.norm(step - np.nan_to_num(background)[:, None], axis=-1), both

    def _quieted(self, lengths: NDArray[np.float64], both: NDArray[np.bool_]) -> NDArray[np.float64]:
        # The length of a jittering step is never zero: what the background's jitter adds in the square is taken off.
        steps = _row_median(lengths, both & self._own)
        return np.sqrt(np.maximum(np.square(steps) - self.noise**2, 0.0))


class _MaskPath:
    """The path of the mask's mean; it counts half, because the mean shifts when something covers the mask."""

    noise = 0.0

    def __init__(self, masks: NDArray[np.bool_]) -> None:
        area = masks.sum(axis=(1, 2))
        safe = np.where(area > 0, area, 1)
        x = (masks.sum(axis=1) @ np.arange(masks.shape[2])) / safe
        y = (masks.sum(axis=2) @ np.arange(masks.shape[1])) / safe
        centre = np.where((area > 0)[:, None], np.stack([x, y], axis=-1), np.nan)
        self._half_way = 0.5 * centre / masks.shape[2]

    def windows(self, length: int) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(self._half_way[length:] - self._half_way[:-length], axis=-1))

    def between(self, first: int, last: int) -> float:
        return float(np.linalg.norm(self._half_way[last] - self._half_way[first]))

    def returns(self, first: int, last: int, least: float) -> bool:
        return False  # the mean also goes and comes back where something passes in front


class _FilledPath:
    """The path of the object's points, and of its mask where no point is seen: trackers lose what is carried."""

    def __init__(self, tracks: _TrackPath, mask: _MaskPath) -> None:
        self._tracks, self._mask, self.noise = tracks, mask, tracks.noise

    def windows(self, length: int) -> NDArray[np.float64]:
        by_tracks = self._tracks.windows(length)
        return np.where(np.isfinite(by_tracks), by_tracks, self._mask.windows(length))

    def between(self, first: int, last: int) -> float:
        by_tracks = self._tracks.between(first, last)
        return by_tracks if np.isfinite(by_tracks) else self._mask.between(first, last)

    def returns(self, first: int, last: int, least: float) -> bool:
        return self._tracks.returns(first, last, least)


def _row_median(values: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(len(values), np.nan)
    for t in np.flatnonzero(use.any(axis=1)):
        out[t] = np.median(values[t][use[t]])
    return out


def _gap(mask: NDArray[np.bool_], robot: NDArray[np.bool_]) -> float:
    """Smallest distance between two masks, pixels; infinite if one is empty."""
    if not mask.any() or not robot.any():
        return float("inf")
    distance = cv2.distanceTransform((~robot).astype(np.uint8), cv2.DIST_L2, 5)
    return float(distance[mask].min())


def _near_tracks(
    masks: NDArray[np.bool_], xy: NDArray[Any], robot: NDArray[np.bool_], reach_px: float, linger: int
) -> NDArray[np.bool_]:
    """Whether a moving point that is not the object's comes within reach of the object's mask, frame by frame."""
    near = np.zeros(len(masks), np.bool_)
    height, width = masks.shape[1:]
    for t in range(len(masks)):
        points = np.rint(np.asarray(xy[t][robot[t]], np.float64)).astype(int)
        points = points[(points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)]
        if len(points) and masks[t].any():
            distance = cv2.distanceTransform((~masks[t]).astype(np.uint8), cv2.DIST_L2, 5)
            near[t] = distance[points[:, 1], points[:, 0]].min() <= reach_px
    # The robot stops to grasp: it is still where it was a moment ago.
    reach = np.ones((1, 2 * linger + 1), np.uint8)
    return np.asarray(cv2.dilate(near.astype(np.uint8)[None], reach)[0], np.bool_)


def _pushes(
    path: _Path,
    near: NDArray[np.bool_] | None,
    openness: NDArray[np.float64] | None,
    rule: ContactRule,
    at_rate: _Frames,
) -> list[tuple[int, int]]:
    """Stretches (first, one past the last) in which the object moves while the robot may touch it."""
    floor = rule.noise_factor * path.noise
    travel = np.nan_to_num(path.windows(at_rate.window))
    active = _moving_frames(path, travel, max(at_rate.quiet, floor), at_rate.window)
    settled = _settled(active, openness, at_rate)
    for start, stop in _runs(_moving_frames(path, travel, max(at_rate.slowly, floor), at_rate.window)):
        fast = np.flatnonzero(active[start:stop]) + start
        if len(fast):
            lead = start if fast[0] - start >= at_rate.slow else fast[0]
            active[lead : fast[-1]] = True
    active[:settled] = False
    runs = []
    for start, stop in _runs(_bridged(active, at_rate.bridge)):
        fastest, far = _extent(travel, start, stop, at_rate.window)
        if fastest < max(at_rate.moving, floor) or far < rule.min_travel:
            continue
        close = np.ones(stop - start, np.bool_) if near is None else near[start:stop]
        runs += [(start + a, start + b) for a, b in _runs(_bridged(close, at_rate.bridge))]
    return runs


def _moving_frames(path: _Path, travel: NDArray[np.float64], least: float, window: int) -> NDArray[np.bool_]:
    """(T,) bool, frames to which the object came by motion of `least` in a window.

    A window that holds the start of a motion begins before it, by up to its whole length. So the first frame of a run
    is the one at which the object is `least` away from where it rested, and its last likewise: what a clip of 5
    frames/s, whose window is one step, gives by itself.
    """
    out = np.zeros(len(travel) + window, np.bool_)
    for first, past in _runs(travel > least):
        rest, end = first, past - 1 + window
        start = next((t for t in range(rest + 1, end + 1) if path.between(rest, t) > least), rest + 1)
        last = next((t for t in range(end - 1, rest - 1, -1) if path.between(t, end) > least), end - 1)
        out[start : last + 2] = True
    return out


def _extent(travel: NDArray[np.float64], start: int, stop: int, window: int) -> tuple[float, float]:
    """The farthest of the windows that touch frames `start` to `stop`, and how far those go in all."""
    fastest = float(travel[max(start - window, 0) : max(stop - 1, 1)].max(initial=0.0))
    return fastest, max(fastest, float(travel[max(start - 1, 0) : max(stop - 1, 0)].sum()) / window)


def _settled(active: NDArray[np.bool_], openness: NDArray[np.float64] | None, at_rate: _Frames) -> int:
    """First frame after the scene has settled: what moves from the first step on, under an open gripper, is untouched.

    Objects are put down, dropped or bounce when a recording starts, with pauses between. Without a gripper signal only
    the motion up to the first pause is taken for that.
    """
    moving = _runs(active if openness is None else _bridged(active, at_rate.bridge))
    if not moving or moving[0][0] > at_rate.window:
        return 0
    start, stop = moving[0]
    closed = stop if openness is None else next((t for t in range(start, stop) if openness[t] <= 0.5), stop)
    if closed == start:
        return 0
    # What was in motion when the gripper closed comes to rest first.
    return next((t for t in range(closed, stop) if not active[t]), stop)


def _gripper_story(
    gripper: NDArray[Any] | None, action_gripper: NDArray[Any] | None, rule: ContactRule, at_rate: _Frames
) -> tuple[list[_Grip], NDArray[np.float64] | None, str]:
    """Closings of the gripper, its openness over the clip's own range, and which signal that came from."""
    source, name = (gripper, "state") if gripper is not None else (action_gripper, "command")
    if source is None:
        return [], None, "none"
    opening = np.asarray(source, np.float64)
    finite = np.isfinite(opening)
    if not finite.any():
        return [], None, "none"
    if opening[finite].min() < -0.5 or opening[finite].max() > 1.5:
        raise GeometryError(
            f"a gripper opening goes from 0 (closed) to 1 (open), got {opening[finite].min():g} to "
            f"{opening[finite].max():g}; scale it to its own convention first"
        )
    opening = np.interp(np.arange(len(opening)), np.flatnonzero(finite), opening[finite])
    low, high = float(opening.min()), float(opening.max())
    if high - low < rule.min_gripper_range:
        return [], None, f"{name}, constant"
    openness = (opening - low) / (high - low)
    # A command runs ahead of the fingers; a measured opening does not.
    delay = 0 if name == "state" else at_rate.delay
    # A clip that begins with a closed gripper does not show that closing.
    closed = [run for run in _runs(openness < 0.5) if run[0] > 0]
    return [_grip(openness, *run, delay, rule, at_rate) for run in closed], openness, name


_STEADY = 0.005
"""Share of the clip's range that the opening may change by over a window without closing: an encoder's last digit."""


def _grip(
    openness: NDArray[np.float64], first: int, stop: int, delay: int, rule: ContactRule, at_rate: _Frames
) -> _Grip:
    """The closing around frame `first`, the first one less than half open; `stop` is the first more than half open."""
    window = at_rate.window
    start = first
    while start > 0 and openness[max(start - window, 0)] > openness[start] + _STEADY:
        start -= 1
    stall = first
    while stall + 1 < stop and openness[stall] - openness[min(stall + window, stop - 1)] > at_rate.stall:
        stall += 1
    held = float(np.median(openness[stall:stop]))
    fraction = (openness - held) / max(openness[start] - held, 1e-9)
    touch = next((t for t in range(first, stall + 1) if fraction[t] <= rule.touch_fraction), stall)
    touch = max(touch, stall - at_rate.early) + delay
    let_go = next((t for t in range(stall, stop) if fraction[t] > rule.release_fraction), stop)
    return _Grip(start, min(touch, stop - 1), min(stall + delay, stop - 1), let_go)


def _add_grip(
    grip: _Grip,
    pushes: list[tuple[int, int]],
    scene: _Scene,
    probability: NDArray[np.float64],
    held: NDArray[np.bool_],
    rule: ContactRule,
    at_rate: _Frames,
) -> None:
    """Writes one closing of the gripper into the clip."""
    if scene.path is None:
        probability[grip.touch : grip.release] = PROBABILITY["grasp by gripper"]
        held[grip.touch : grip.release] = True
        return
    motions = [p for p in pushes if p[1] > grip.start and p[0] < grip.release]
    # Squeezing shifts the object, or lifting moves it soon after; what moves later was met by closed fingers.
    moved = next((p for p in motions if p[0] <= grip.stall + at_rate.wait), None)
    apart = scene.near is not None and not scene.near[grip.touch : grip.stall + 1].any()
    if moved is None or apart:
        quiet = slice(grip.touch, grip.release)
        probability[quiet] = np.maximum(probability[quiet], PROBABILITY["closed on nothing"])
        for start, stop in motions:
            stop = min(stop, grip.release)
            if start >= grip.stall and scene.path.returns(start, stop - 1, rule.return_travel):
                probability[start : grip.release] = PROBABILITY["grasp seen"]
                held[start : grip.release] = True
                return
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
