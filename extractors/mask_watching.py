"""What each proposed mask does in a clip: how it moves, and how its look and place change.

Motion is optical flow at a small size from one moment to the next (DIS; Kroeger et al. 2016), without the background's
own motion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import resize_area, resize_rgb
from extractors.moments import picked
from extractors.types import Frames, Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORKING_PX = 192
"""Longer side of the working frames: a resolution, at which flow costs 2 ms a frame."""

MOST_LEVELS = 60.0
"""Grey levels at which the difference of a pixel is cut off: one highlight must not outweigh a mask."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What may be the object.

    Attributes:
        masks: T masks (H, W) bool, an array or lazy.
        confidence: (T,) float32 in [0, 1], the detector's, 0 in frames without a mask.
        prompt: the text that found it, "" without one.
        name: tells candidates of one prompt apart.
    """

    masks: Frames
    confidence: Floats
    prompt: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceRule:
    """Weights and thresholds of `choose_candidate`; grey levels are of 255.

    Attributes:
        moving: share of the frame's width that something moves by from one moment to the next.
        changed_levels: grey levels by which a pixel changes that moves.
        sure_levels: grey levels by which a mask's own motion must explain it better than rest, to be sure of it.
        travel: net way after onset, as a share of the frame's width, at which the cue `moves` is 0.63.
        weights: of each cue in the geometric mean: 2 for those without which a tenth of the choices in
            tests/benchmarks/mask_choice.py are wrong.
        floor: a cue counts at least this much.
    """

    moving: float = 0.0026
    changed_levels: float = 6.0
    sure_levels: float = 2.0
    travel: float = 0.02
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "still_before": 2.0,
            "moves": 2.0,
            "follows": 2.0,
            "not_robot": 2.0,
            "with_gripper": 1.0,
            "inside": 1.0,
            "same_look": 1.0,
        }
    )
    floor: float = 0.02


@dataclass(slots=True, eq=False)
class Behaviour:
    """What one candidate does at each of M moments; motion is from that moment to the next, so the last has none.

    Attributes:
        shown: (M,) bool, it has a mask.
        centre: (M, 2) shares of the frame's width, NaN without a mask.
        motion: (M, 2) median motion of its pixels against the background, shares of the width, NaN unknown.
        moving: (M,) 0 to 1, it moves.
        following: (M,) how well its centre goes with the image under it, 0 to 1, NaN where both rest.
        colours: histograms of its pixels, 8 bins a channel, of the moments with a mask.
        at_border: (M,) bool, its mask touches the image border.
        thumbs: (M,) its mask at 24 x 24, for telling candidates that are the same.
    """

    shown: Bools
    centre: Floats
    motion: Floats
    moving: Floats
    following: Floats
    colours: list[Floats]
    at_border: Bools
    thumbs: list[NDArray[np.uint8]]


def watch(
    candidates: Sequence[Candidate], frames: Frames, at: NDArray[np.int64], rule: ChoiceRule
) -> tuple[list[Behaviour], Floats]:
    """What each of the candidates does at the moments `at` (M,) of `frames`, which are iterated once.

    Returns:
        A behaviour per candidate, and (M,) the share of the frame that moves from each moment to the next.
    """
    behaviours = [_blank(len(at)) for _ in candidates]
    share = np.zeros(len(at), np.float32)
    height, width = int(frames.shape[1]), int(frames.shape[2])
    factor = WORKING_PX / max(height, width)
    # The flow refuses images smaller than its patches.
    size = (max(round(height * factor), 16), max(round(width * factor), 16))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    masks = [picked(each.masks, at) for each in candidates]
    grey_before: NDArray[np.uint8] | None = None
    masks_before: list[Bools] = []
    for moment, pixels in enumerate(picked(frames, at)):
        colour = resize_rgb(np.asarray(pixels), size)
        grey = np.asarray(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), np.uint8)
        masks_now = [_reduce(next(each), size) for each in masks]
        for each, now in zip(behaviours, masks_now, strict=True):
            _note_look(each, moment, now, colour)
        if grey_before is not None:
            moved = np.asarray(flow.calc(grey_before, grey, np.zeros((*size, 2), np.float32)), np.float32)
            step = _explain(grey_before, grey, moved, rule)
            share[moment - 1] = step.moves.mean()
            for each, before in zip(behaviours, masks_before, strict=True):
                _note_motion(each, moment - 1, before, step, rule)
        grey_before, masks_before = grey, masks_now
    return behaviours, share


def _blank(n_moments: int) -> Behaviour:
    def unknown(*shape: int) -> Floats:
        return np.full((n_moments, *shape), np.nan, np.float32)

    return Behaviour(
        shown=np.zeros(n_moments, np.bool_),
        centre=unknown(2),
        motion=unknown(2),
        moving=unknown(),
        following=unknown(),
        colours=[],
        at_border=np.zeros(n_moments, np.bool_),
        thumbs=[],
    )


def _reduce(mask: Any, size: Size) -> Bools:
    """The mask at working size; one that would vanish keeps its most covered pixels."""
    mask = np.asarray(mask, np.bool_)
    if mask.shape == size or not mask.any():
        return mask if mask.shape == size else np.zeros(size, np.bool_)
    covered = resize_area(mask, size)
    return np.asarray(covered >= min(0.5, float(covered.max())), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Two moments, and how far the background's motion explains the second.

    Attributes:
        before, after: (h, w) float32 grey levels.
        flow: (h, w, 2) working pixels, from `before` to `after`.
        background: (h, w, 2) the background's motion.
        camera_moves: the background is not at rest.
        error: (h, w) grey levels, `after` at the background's motion against `before`.
        moves: (h, w) bool, moves otherwise than the background, and the image shows it.
    """

    before: Floats
    after: Floats
    flow: Floats
    background: Floats
    camera_moves: bool
    error: Floats
    moves: Bools

    def mismatch(self, motion: Floats, mask: Bools) -> float:
        """Mean grey difference over `mask` when its pixels are taken to move by `motion` (2,) or (h, w, 2)."""
        return float(np.minimum(_difference(self.before, self.after, motion)[mask], MOST_LEVELS).mean())


def _explain(before: NDArray[np.uint8], after: NDArray[np.uint8], flow: Floats, rule: ChoiceRule) -> _Step:
    one, two = before.astype(np.float32), after.astype(np.float32)
    moving_px = rule.moving * flow.shape[1]
    background, camera_moves = _background_motion(flow, moving_px)
    error = _difference(one, two, background)
    fast = np.linalg.norm(flow - background, axis=-1) > moving_px
    # Flow runs on into smooth places beside what moves: only where the image changes is it believed.
    moves = fast & (cv2.blur(error, (3, 3)) > rule.changed_levels)
    return _Step(one, two, flow, background, camera_moves, error, moves)


def _difference(before: Floats, after: Floats, motion: Floats) -> Floats:
    height, width = before.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(after, x + motion[..., 0], y + motion[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.abs(moved - before), np.float32)


def _background_motion(flow: Floats, moving_px: float) -> tuple[Floats, bool]:
    """The motion (h, w, 2) that most of the frame follows, as a homography; zero where most of it rests."""
    zero = np.zeros_like(flow)
    if float(np.median(np.linalg.norm(flow, axis=-1))) < moving_px:
        return zero, False
    height, width = flow.shape[:2]
    y, x = np.mgrid[4 : height - 4 : 6, 4 : width - 4 : 6]
    home = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
    matrix, _ = cv2.findHomography(home, home + flow[y.ravel(), x.ravel()], cv2.RANSAC, 3 * moving_px)
    if matrix is None:
        return zero, False
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    places = np.stack([x, y], -1)
    moved = cv2.perspectiveTransform(places.reshape(-1, 1, 2), matrix).reshape(places.shape)
    return np.asarray(moved - places, np.float32), True


def _note_look(behaviour: Behaviour, moment: int, mask: Bools, colour: NDArray[np.uint8]) -> None:
    behaviour.shown[moment] = mask.any()
    if mask.any():
        red, green, blue = (colour[mask] // 32).astype(np.int64).T
        histogram = np.bincount(64 * red + 8 * green + blue, minlength=512).astype(np.float32)
        behaviour.colours.append(histogram / histogram.sum())
        rows, columns = np.nonzero(mask)
        behaviour.centre[moment] = np.array([columns.mean(), rows.mean()]) / mask.shape[1]
        behaviour.at_border[moment] = mask[[0, -1]].any() or mask[:, [0, -1]].any()
    thumb = cv2.resize(mask.astype(np.uint8) * 255, (24, 24), interpolation=cv2.INTER_AREA)
    behaviour.thumbs.append(np.asarray(thumb, np.uint8))


def _note_motion(behaviour: Behaviour, moment: int, mask: Bools, step: _Step, rule: ChoiceRule) -> None:
    """Called after `_note_look` of both moments of the step."""
    if not mask.any():
        return
    width = mask.shape[1]
    own = np.median((step.flow - step.background)[mask], axis=0)
    behaviour.motion[moment] = own / width
    behaviour.moving[moment] = _is_moving(mask, own, step, rule)
    if behaviour.shown[moment + 1]:
        shift = behaviour.centre[moment + 1] - behaviour.centre[moment]
        behaviour.following[moment] = _following(shift, np.median(step.flow[mask], axis=0) / width, rule)


def _is_moving(mask: Bools, own: Floats, step: _Step, rule: ChoiceRule) -> float:
    """0 to 1: how much better its own motion explains the next moment than the background's does.

    With a moving camera, resting in the image is a motion of its own: that of the arm that carries the camera.
    """
    others = []
    if float(np.linalg.norm(own)) > rule.moving * mask.shape[1]:
        others.append(step.mismatch(own + step.background, mask))
    if step.camera_moves:
        others.append(step.mismatch(np.zeros(2, np.float32), mask))
    if not others:
        return 0.0
    resting = float(np.minimum(step.error[mask], MOST_LEVELS).mean())
    return float(np.clip((resting - 1.2 * min(others)) / rule.sure_levels, 0.0, 1.0))


def _following(shift: Floats, flow: Floats, rule: ChoiceRule) -> float:
    """How well a centre's `shift` (2,) goes with the `flow` (2,) under it, both shares of the width."""
    speed = max(float(np.linalg.norm(shift)), float(np.linalg.norm(flow)))
    if speed <= rule.moving:
        return float("nan")
    # Half of the way, and twice what counts as rest, are granted to turning, occlusion and ragged borders.
    excess = max(float(np.linalg.norm(shift - flow)) - 2 * rule.moving, 0.0)
    return float(np.exp(-excess / (0.5 * speed + rule.moving)))


def is_same(one: Behaviour, other: Behaviour) -> bool:
    """Whether two candidates are mostly the same region: no rivals, but two names for one thing."""
    a, b = np.stack(one.thumbs).astype(np.float32), np.stack(other.thumbs).astype(np.float32)
    union = float(np.maximum(a, b).sum())
    return union > 0 and float(np.minimum(a, b).sum()) / union > 0.6
