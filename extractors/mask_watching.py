"""What each proposed mask does in a clip: how it moves, what moves beside it, how its look and place change.

Motion is optical flow at a small size (DIS; Kroeger et al. 2016), with the background's own motion taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import resize_area, resize_rgb
from extractors.types import Frames, Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


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
    """Weights and thresholds of `choose_candidate`; lengths are in working pixels.

    Attributes:
        working_px: longer side of the working frames.
        moving_px: motion per frame above which something moves.
        changed_levels: grey levels by which a pixel changes that moves.
        sure_levels: grey levels by which a mask's own motion must explain it better than rest, to be sure of it.
        ring_px: how far around a mask its neighbours are looked for.
        near_px: distance to what moves beside it at which the cue `near` has fallen to 1/e.
        travel_px: net way after onset at which the cue `moves` is 0.63.
        size_low, size_high: shares of the frame between which a size is plausible.
        weights: of each cue in the geometric mean.
        floor: a cue counts at least this much.
    """

    working_px: int = 192
    moving_px: float = 0.5
    changed_levels: float = 6.0
    sure_levels: float = 2.0
    ring_px: int = 9
    near_px: float = 8.0
    travel_px: float = 4.0
    size_low: float = 0.001
    size_high: float = 0.3
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "still_before": 2.0,
            "moves": 1.5,
            "near": 1.0,
            "with_gripper": 1.0,
            "with_neighbour": 1.0,
            "inside": 1.0,
            "not_robot": 2.0,
            "size": 1.0,
            "steady": 1.0,
            "follows": 2.0,
            "same_look": 1.0,
            "present": 0.5,
            "confidence": 0.5,
        }
    )
    floor: float = 0.02


@dataclass(slots=True, eq=False)
class Behaviour:
    """What one candidate does in each frame; motion is from that frame to the next, so the last has none.

    Attributes:
        area: (T,) share of the frame.
        centre: (T, 2) pixels, NaN without a mask.
        motion: (T, 2) median motion of its pixels against the background, pixels, NaN unknown.
        moving: (T,) 0 to 1, it moves.
        gap: (T,) pixels to the nearest moving pixel outside, NaN without.
        fellowship: (T,) how alike its neighbours that move, move: 0 to 1, NaN where it or they rest.
        overlap: (T,) IoU with its next mask, shifted onto it, NaN where one is missing.
        following: (T,) how well its centre goes with the image under it, 0 to 1, NaN where both rest.
        colours: (T,) histograms of its pixels, 8 bins a channel, None without a mask.
        at_border: (T,) bool, its mask touches the image border.
        thumbs: (T,) its mask at 24 x 24, for telling candidates that are the same.
        confidence: mean over its frames.
    """

    area: Floats
    centre: Floats
    motion: Floats
    moving: Floats
    gap: Floats
    fellowship: Floats
    overlap: Floats
    following: Floats
    colours: list[Floats | None]
    at_border: Bools
    thumbs: list[NDArray[np.uint8]]
    confidence: float


@dataclass(slots=True, eq=False)
class Scene:
    """What moves at all.

    Attributes:
        share: (T,) share of the frame that moves.
    """

    share: Floats

    @property
    def start(self) -> int:
        """First frame in which something moves, 0 where nothing does."""
        moving = np.flatnonzero(self.share > 0.002)
        return int(moving[0]) if len(moving) else 0


def watch(candidates: Sequence[Candidate], frames: Frames, rule: ChoiceRule) -> tuple[list[Behaviour], Scene]:
    """What each of the candidates does in the T `frames`, and what moves at all; the frames are iterated once."""
    n_frames = len(frames)
    behaviours = [_blank(n_frames, each) for each in candidates]
    scene = Scene(np.zeros(n_frames, np.float32))
    height, width = int(frames.shape[1]), int(frames.shape[2])
    factor = rule.working_px / max(height, width)
    size = (max(round(height * factor), 16), max(round(width * factor), 16))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    masks = [iter(each.masks) for each in candidates]
    grey_before: NDArray[np.uint8] | None = None
    masks_before: list[Bools] = []
    for frame, pixels in enumerate(frames):
        colour = resize_rgb(np.asarray(pixels), size)
        grey = np.asarray(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), np.uint8)
        masks_now = [_reduce(next(each), size) for each in masks]
        step = None
        if grey_before is not None:
            moved = np.asarray(flow.calc(grey_before, grey, np.zeros((*size, 2), np.float32)), np.float32)
            step = _explain(grey_before, grey, moved, rule)
            scene.share[frame - 1] = step.moves.mean()
        for index, (each, now) in enumerate(zip(behaviours, masks_now, strict=True)):
            _note_look(each, frame, now, colour)
            if step is not None:
                _note_motion(each, frame - 1, masks_before[index], now, step, rule)
        grey_before, masks_before = grey, masks_now
    return behaviours, scene


def _blank(n_frames: int, candidate: Candidate) -> Behaviour:
    def unknown(*shape: int) -> Floats:
        return np.full((n_frames, *shape), np.nan, np.float32)

    confidence = np.asarray(candidate.confidence, np.float32)
    found = confidence[confidence > 0]
    return Behaviour(
        area=np.zeros(n_frames, np.float32),
        centre=unknown(2),
        motion=unknown(2),
        moving=unknown(),
        gap=unknown(),
        fellowship=unknown(),
        overlap=unknown(),
        following=unknown(),
        colours=[],
        at_border=np.zeros(n_frames, np.bool_),
        thumbs=[],
        confidence=float(found.mean()) if len(found) else 0.0,
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
    """Two frames, and how far the background's motion explains the second.

    Attributes:
        before, after: (h, w) float32 grey levels.
        flow: (h, w, 2) pixels, from `before` to `after`.
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
        return float(np.minimum(_difference(self.before, self.after, motion)[mask], 60.0).mean())


def _explain(before: NDArray[np.uint8], after: NDArray[np.uint8], flow: Floats, rule: ChoiceRule) -> _Step:
    one, two = before.astype(np.float32), after.astype(np.float32)
    background, camera_moves = _background_motion(flow)
    error = _difference(one, two, background)
    fast = np.linalg.norm(flow - background, axis=-1) > rule.moving_px
    # Flow runs on into smooth places beside what moves: only where the image changes is it believed.
    moves = fast & (cv2.blur(error, (3, 3)) > rule.changed_levels)
    return _Step(one, two, flow, background, camera_moves, error, moves)


def _difference(before: Floats, after: Floats, motion: Floats) -> Floats:
    height, width = before.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(after, x + motion[..., 0], y + motion[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.abs(moved - before), np.float32)


def _background_motion(flow: Floats) -> tuple[Floats, bool]:
    """The motion (h, w, 2) that most of the frame follows, as a homography; zero where most of it rests."""
    zero = np.zeros_like(flow)
    if float(np.median(np.linalg.norm(flow, axis=-1))) < 0.3:
        return zero, False
    height, width = flow.shape[:2]
    y, x = np.mgrid[4 : height - 4 : 6, 4 : width - 4 : 6]
    home = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
    matrix, _ = cv2.findHomography(home, home + flow[y.ravel(), x.ravel()], cv2.RANSAC, 1.5)
    if matrix is None:
        return zero, False
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    places = np.stack([x, y], -1)
    moved = cv2.perspectiveTransform(places.reshape(-1, 1, 2), matrix).reshape(places.shape)
    return np.asarray(moved - places, np.float32), True


def _note_look(behaviour: Behaviour, frame: int, mask: Bools, colour: NDArray[np.uint8]) -> None:
    behaviour.area[frame] = mask.mean()
    behaviour.colours.append(None)
    if mask.any():
        red, green, blue = (colour[mask] // 32).astype(np.int64).T
        histogram = np.bincount(64 * red + 8 * green + blue, minlength=512).astype(np.float32)
        behaviour.colours[frame] = histogram / histogram.sum()
        rows, columns = np.nonzero(mask)
        behaviour.centre[frame] = columns.mean(), rows.mean()
        height, width = mask.shape
        behaviour.at_border[frame] = (
            rows.min() == 0 or columns.min() == 0 or rows.max() == height - 1 or columns.max() == width - 1
        )
    thumb = cv2.resize(mask.astype(np.uint8) * 255, (24, 24), interpolation=cv2.INTER_AREA)
    behaviour.thumbs.append(np.asarray(thumb, np.uint8))


def _note_motion(behaviour: Behaviour, frame: int, mask: Bools, after: Bools, step: _Step, rule: ChoiceRule) -> None:
    if not mask.any():
        return
    motion = step.flow - step.background
    own = np.median(motion[mask], axis=0)
    behaviour.motion[frame] = own
    behaviour.moving[frame] = _is_moving(mask, own, step, rule)
    if after.any():
        behaviour.overlap[frame] = _shifted_iou(mask, after)
        behaviour.following[frame] = _following(behaviour.centre[frame], behaviour.centre[frame + 1], mask, step, rule)
    others = step.moves & ~mask
    if not others.any():
        return
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    behaviour.gap[frame] = float(distance[others].min())
    ring = others & (distance <= rule.ring_px)
    speed = float(np.linalg.norm(own))
    if ring.any() and speed > rule.moving_px:
        difference = np.linalg.norm(motion[ring] - own, axis=-1)
        behaviour.fellowship[frame] = float(np.exp(-difference / (0.5 * speed + 0.5)).mean())


def _is_moving(mask: Bools, own: Floats, step: _Step, rule: ChoiceRule) -> float:
    """0 to 1: how much better its own motion explains the next frame than the background's does.

    With a moving camera, resting in the image is a motion of its own: that of the arm that carries the camera.
    """
    others = []
    if float(np.linalg.norm(own)) > rule.moving_px:
        others.append(step.mismatch(own + step.background, mask))
    if step.camera_moves:
        others.append(step.mismatch(np.zeros(2, np.float32), mask))
    if not others:
        return 0.0
    resting = float(np.minimum(step.error[mask], 60.0).mean())
    return float(np.clip((resting - 1.2 * min(others)) / rule.sure_levels, 0.0, 1.0))


def _following(before: Floats, after: Floats, mask: Bools, step: _Step, rule: ChoiceRule) -> float:
    shift, flow = after - before, np.median(step.flow[mask], axis=0)
    speed = max(float(np.linalg.norm(shift)), float(np.linalg.norm(flow)))
    if speed <= rule.moving_px:
        return float("nan")
    # Half of the way, and a pixel, are granted to turning, occlusion and ragged borders.
    return float(np.exp(-max(float(np.linalg.norm(shift - flow)) - 1.0, 0.0) / (0.5 * speed + 0.5)))


def _shifted_iou(mask: Bools, after: Bools) -> float:
    """IoU of two masks with their centres laid upon each other."""
    centres = [np.argwhere(each).mean(axis=0) for each in (mask, after)]
    dy, dx = centres[1] - centres[0]
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    moved = cv2.warpAffine(mask.astype(np.uint8), matrix, after.shape[::-1], flags=cv2.INTER_NEAREST) > 0
    union = int((moved | after).sum())
    return float((moved & after).sum()) / union if union else 0.0


def is_same(one: Behaviour, other: Behaviour) -> bool:
    """Whether two candidates are mostly the same region: no rivals, but two names for one thing."""
    a, b = np.stack(one.thumbs).astype(np.float32), np.stack(other.thumbs).astype(np.float32)
    union = float(np.maximum(a, b).sum())
    return union > 0 and float(np.minimum(a, b).sum()) / union > 0.6
