"""Which of several proposed masks is the manipulated object: what the episode shows decides.

A text detector answers a prompt with anything that fits the words. The clip says more: the manipulated object lies
still while the robot comes, the robot is beside it when it starts to move, it then moves with what touches it, and
while the gripper is closed rather than open. The arm moves first and all along, a distractor never moves, noise jumps.
Each of these is a cue in [0, 1]; their weighted geometric mean is the candidate's score, so that one cue near 0 is not
bought back by the others. A cue that the clip says nothing about is left out and its weight falls to the others.

Motion is optical flow at a small size (DIS; Kroeger et al. 2016), with the background's own motion taken out. The
thresholds were set on the episodes of tests/benchmarks/mask_choice.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, LengthMismatchError, ShapeError
from extractors.geometry import resize_area, resize_rgb
from extractors.types import Frames, Size

ChooseBy = Literal["best", "first"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

LATE = 0.4
"""The cue `still_before` of a mask that is first seen moving."""


class PackedMasks:
    """T boolean masks of one size, compressed; iterating unpacks them one by one. Is a `Frames`.

    2,000 masks of 224 x 224 px take about 1 MB where an array takes 100 MB: a clip's candidates can all be kept.
    """

    def __init__(self, size: Size, n_frames: int) -> None:
        """All False at first."""
        self.size = size
        self._packed: list[bytes | None] = [None] * n_frames

    @classmethod
    def of(cls, masks: Bools) -> PackedMasks:
        """The masks (T, H, W) bool, packed."""
        if masks.ndim != 3 or masks.dtype != np.bool_:
            raise ShapeError(f"masks must be (T, H, W) bool, got {masks.shape} {masks.dtype}")
        packed = cls((int(masks.shape[1]), int(masks.shape[2])), len(masks))
        for frame, mask in enumerate(masks):
            packed[frame] = mask
        return packed

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W)."""
        return len(self._packed), *self.size

    def __len__(self) -> int:
        return len(self._packed)

    def __setitem__(self, frame: int, mask: Bools) -> None:
        if mask.shape != self.size or mask.dtype != np.bool_:
            raise ShapeError(f"a mask must be {self.size} bool, got {mask.shape} {mask.dtype}")
        self._packed[frame] = zlib.compress(np.packbits(mask).tobytes(), 1) if mask.any() else None

    def __getitem__(self, frame: int) -> Bools:
        packed = self._packed[frame]
        if packed is None:
            return np.zeros(self.size, np.bool_)
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=self.size[0] * self.size[1]).astype(np.bool_).reshape(self.size)

    def __iter__(self) -> Iterator[Bools]:
        for frame in range(len(self)):
            yield self[frame]

    @property
    def present(self) -> Bools:
        """(T,) bool, the frames with a mask."""
        return np.array([packed is not None for packed in self._packed], np.bool_)


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


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The answer, and what it rests on.

    Attributes:
        index: of the chosen candidate, None where there is none to choose from.
        scores: of the candidates, in their order, in [0, 1].
        cues: of the candidates, in their order; None where the clip does not tell.
        margin: the chosen one's lead over the best that is not (nearly) the same region, its own score without one.
    """

    index: int | None
    scores: tuple[float, ...]
    cues: tuple[Mapping[str, float | None], ...]
    margin: float

    def report(self, candidates: Sequence[Candidate], *, most: int = 50) -> dict[str, Any]:
        """JSON types: chosen prompt, all candidates best first with their cues, margin; cues of the first `most`."""
        order = sorted(range(len(self.scores)), key=lambda i: (i != self.index, -self.scores[i]))
        rows = [
            {
                "prompt": candidates[i].prompt,
                "name": candidates[i].name,
                "score": round(self.scores[i], 4),
                **({"cues": dict(self.cues[i])} if place < most and self.cues[i] else {}),
            }
            for place, i in enumerate(order)
        ]
        chosen = candidates[self.index] if self.index is not None else None
        return {
            "prompt": chosen.prompt if chosen else None,
            "candidates": rows,
            "margin": round(self.margin, 4),
        }


def choose_candidate(
    candidates: Sequence[Candidate],
    frames: Frames,
    gripper: NDArray[Any] | None = None,
    *,
    by: ChooseBy = "best",
    robot: Frames | None = None,
    rule: ChoiceRule | None = None,
) -> Choice:
    """The candidate that behaves as a manipulated object.

    Args:
        candidates: each with T masks, all of one size.
        frames: T RGB frames (H, W, 3) uint8 of any size, iterated once.
        gripper: (T,) opening, 1 open, 0 closed; None or constant: the cue is left out.
        by: "best" score; "first" takes the first candidate that is there at all, unscored.
        robot: T masks of the robot, of the candidates' size, where they are known.
        rule: weights and thresholds; None: `ChoiceRule()`.

    Returns:
        A Choice; index None where no candidate has a pixel in any frame.

    Raises:
        ConfigError: `by` is neither.
        LengthMismatchError: masks, confidences, frames and gripper are not of one length.
    """
    if by not in ("best", "first"):
        raise ConfigError(f"candidates are chosen by 'best' or 'first', got {by!r}")
    rule = rule or ChoiceRule()
    _check_lengths(candidates, frames, gripper)
    there = [index for index, each in enumerate(candidates) if any(mask.any() for mask in each.masks)]
    if not there or by == "first":
        first = there[0] if there else None
        scores = tuple(float(np.mean(each.confidence)) for each in candidates)
        return Choice(first, scores, ({},) * len(candidates), 0.0 if first is None else scores[first])
    behaviours, scene = _watch(candidates, frames, rule)
    cues = tuple(
        {**_cues(each, scene, gripper, rule), "not_robot": _not_robot(candidate, robot)}
        for each, candidate in zip(behaviours, candidates, strict=True)
    )
    scores = tuple(_score(each, rule) if index in set(there) else 0.0 for index, each in enumerate(cues))
    best = max(there, key=lambda index: scores[index])
    rivals = [scores[i] for i in there if i != best and not _is_same(behaviours[i], behaviours[best])]
    return Choice(best, scores, cues, scores[best] - max(rivals, default=0.0))


@dataclass(slots=True, eq=False)
class _Behaviour:
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
class _Scene:
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


def _check_lengths(candidates: Sequence[Candidate], frames: Frames, gripper: NDArray[Any] | None) -> None:
    lengths = {"frames": len(frames)}
    if gripper is not None:
        lengths["gripper"] = len(gripper)
    for index, each in enumerate(candidates):
        lengths[f"masks of candidate {index}"] = len(each.masks)
        lengths[f"confidence of candidate {index}"] = len(each.confidence)
    if len(set(lengths.values())) > 1:
        raise LengthMismatchError(f"candidates, frames and gripper must have one length, got {lengths}")


# --- watching ----------------------------------------------------------------------------------------------------


def _watch(candidates: Sequence[Candidate], frames: Frames, rule: ChoiceRule) -> tuple[list[_Behaviour], _Scene]:
    n_frames = len(frames)
    behaviours = [_blank(n_frames, each) for each in candidates]
    scene = _Scene(np.zeros(n_frames, np.float32))
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


def _blank(n_frames: int, candidate: Candidate) -> _Behaviour:
    def unknown(*shape: int) -> Floats:
        return np.full((n_frames, *shape), np.nan, np.float32)

    confidence = np.asarray(candidate.confidence, np.float32)
    found = confidence[confidence > 0]
    return _Behaviour(
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


def _note_look(behaviour: _Behaviour, frame: int, mask: Bools, colour: NDArray[np.uint8]) -> None:
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


def _note_motion(behaviour: _Behaviour, frame: int, mask: Bools, after: Bools, step: _Step, rule: ChoiceRule) -> None:
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


# --- judging -----------------------------------------------------------------------------------------------------


def _cues(
    behaviour: _Behaviour, scene: _Scene, gripper: NDArray[Any] | None, rule: ChoiceRule
) -> dict[str, float | None]:
    """Cue name -> value in [0, 1], None where the clip does not tell."""
    story = _story(behaviour, scene)
    present = behaviour.area > 0
    values: dict[str, float | None] = {
        "still_before": story.rest,
        "moves": _moves(behaviour, story.onset, rule),
        "near": _near(behaviour, story.onset, gripper, rule),
        "with_gripper": _with_gripper(behaviour, gripper),
        "with_neighbour": _mean(behaviour.fellowship),
        "inside": 1.0 - 0.7 * float(behaviour.at_border[present].mean()) if present.any() else 0.0,
        "size": _size(behaviour, rule),
        "steady": _mean(behaviour.overlap),
        "follows": _follows(behaviour),
        "same_look": _same_look(behaviour),
        "present": float(present.mean()),
        "confidence": behaviour.confidence,
    }
    return {name: None if value is None else round(float(value), 4) for name, value in values.items()}


def _score(cues: Mapping[str, float | None], rule: ChoiceRule) -> float:
    known = {name: value for name, value in cues.items() if value is not None and rule.weights.get(name, 0) > 0}
    total = sum(rule.weights[name] for name in known)
    if not total:
        return 0.0
    return float(
        np.exp(sum(rule.weights[name] * np.log(max(value, rule.floor)) for name, value in known.items()) / total)
    )


class _Story(NamedTuple):
    """Frame in which it starts to move for good, None if it never does; how well it rested before, 0 to 1."""

    onset: int | None
    rest: float


def _story(behaviour: _Behaviour, scene: _Scene) -> _Story:
    """The split into rest and motion that fits best: rests as long as other things move already, then moves.

    Things may still settle in the first tenth of a clip (they do in simulators); that is not held against them. Where
    the mask is first seen moving, the clip does not tell, which is worth less than rest that was seen.
    """
    n_frames = len(behaviour.moving)
    first = max(scene.start, n_frames // 10)
    known = np.isfinite(behaviour.moving)
    moving = np.where(known, behaviour.moving, 0.0)
    seen = np.flatnonzero(known)
    window = max(3, n_frames // 10)
    best = _Story(None, 0.0)
    best_fit = 0.0
    for onset in np.flatnonzero(moving > 0.5).tolist():
        ahead = slice(onset, onset + window)
        lasts = float(moving[ahead].sum()) / max(int(known[ahead].sum()), 2)
        before = known[first:onset]
        if before.any():
            rest = float(1.0 - moving[first:onset][before].mean()) * min((onset - first) / window, 1.0)
        else:
            rest = LATE if seen[0] >= first + 2 else 0.0
        if rest * lasts > best_fit or best.onset is None:
            best, best_fit = _Story(onset, rest), rest * lasts
    if best.onset is None:
        return _Story(None, float(1.0 - moving[first:][known[first:]].mean()) if known[first:].any() else 0.0)
    return best


def _moves(behaviour: _Behaviour, onset: int | None, rule: ChoiceRule) -> float:
    """Way it goes after onset, as far as mask and image agree on it."""
    if onset is None:
        return 0.0
    steps = np.nan_to_num(behaviour.motion * behaviour.following[:, None], nan=0.0)[onset:]
    way = np.linalg.norm(np.cumsum(steps, axis=0), axis=-1).max(initial=0.0)
    return 1.0 - float(np.exp(-way / rule.travel_px))


def _near(behaviour: _Behaviour, onset: int | None, gripper: NDArray[Any] | None, rule: ChoiceRule) -> float | None:
    """Whether something that moves is beside it when it starts to move, or when the gripper closes."""
    frame = onset if onset is not None else _closing(gripper)
    if frame is None:
        return None
    gap = behaviour.gap[max(frame - 3, 0) : frame + 2]
    gap = gap[np.isfinite(gap)]
    return float(np.exp(-max(float(gap.min()) - 2.0, 0.0) / rule.near_px)) if len(gap) else 0.3


def _closing(gripper: NDArray[Any] | None) -> int | None:
    closed = _closed(gripper)
    if closed is None:
        return None
    frames = np.flatnonzero(closed[1:] & ~closed[:-1]) + 1
    return int(frames[0]) if len(frames) else None


def _closed(gripper: NDArray[Any] | None) -> Bools | None:
    """(T,) bool, nearer to its least opening than to its largest; None where it hardly changes."""
    if gripper is None or not np.isfinite(np.asarray(gripper, float)).any():
        return None
    opening = np.asarray(gripper, float)
    low, high = np.nanmin(opening), np.nanmax(opening)
    return None if high - low < 0.1 else np.nan_to_num(opening, nan=high) < (low + high) / 2


def _with_gripper(behaviour: _Behaviour, gripper: NDArray[Any] | None) -> float | None:
    """Its motion while the gripper is closed, as a share of its motion at all times."""
    closed = _closed(gripper)
    if closed is None:
        return None
    speed = np.linalg.norm(behaviour.motion, axis=-1) * np.nan_to_num(behaviour.following, nan=1.0)
    means = [_mean(speed[state]) for state in (closed, ~closed)]
    if means[0] is None or means[1] is None or sum(means) < 0.05:  # type: ignore[arg-type]
        return None
    return means[0] / (means[0] + means[1])


def _size(behaviour: _Behaviour, rule: ChoiceRule) -> float:
    area = float(np.median(behaviour.area[behaviour.area > 0])) if behaviour.area.any() else 0.0
    if area <= 0:
        return 0.0
    outside = max(np.log(rule.size_low / area), np.log(area / rule.size_high), 0.0)
    return float(np.exp(-outside))


def _follows(behaviour: _Behaviour) -> float | None:
    """How well its centre goes with the image under it, fast frames counting more."""
    known = np.isfinite(behaviour.following)
    speed = np.linalg.norm(behaviour.motion, axis=-1)[known] + 0.5
    return float((behaviour.following[known] * speed).sum() / speed.sum()) if known.any() else None


def _not_robot(candidate: Candidate, robot: Frames | None) -> float | None:
    """Share of its pixels that are not the robot's; None where the robot is not known."""
    if robot is None:
        return None
    common = total = any_robot = 0
    for mask, arm in zip(candidate.masks, robot, strict=True):
        common, total, any_robot = common + int((mask & arm).sum()), total + int(mask.sum()), any_robot + int(arm.any())
    return round(1.0 - common / total, 4) if total and any_robot else None


def _same_look(behaviour: _Behaviour) -> float | None:
    """How much its colours stay the same: mean intersection with their mean histogram."""
    known = [each for each in behaviour.colours if each is not None]
    if not known:
        return None
    stack = np.stack(known)
    return float(np.minimum(stack, stack.mean(axis=0)).sum(axis=1).mean())


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _is_same(one: _Behaviour, other: _Behaviour) -> bool:
    """Whether two candidates are mostly the same region: no rivals, but two names for one thing."""
    a, b = np.stack(one.thumbs).astype(np.float32), np.stack(other.thumbs).astype(np.float32)
    union = float(np.maximum(a, b).sum())
    return union > 0 and float(np.minimum(a, b).sum()) / union > 0.6
