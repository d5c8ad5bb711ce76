"""Object masks from motion alone: a fixed camera, no weights.

The manipulated object lies still, the robot comes, and then the object moves. From this one sentence:

1. *Home*: the image before contact, the commonest colour of each pixel with later frames counting more. What differs
   from it, shadows apart, is foreground.
2. *Candidates*: points of the home image that lay still, left when the robot came, and are found again elsewhere
   (Lucas-Kanade tracks that keep their appearance and stand on foreground); and regions that leave and do not return.
3. *Check*: each candidate is followed as a whole through the clip. Two explanations of every pixel near it compete,
   "moves with the candidate" and "stays", as layers (Wang and Adelson, 1994). The arm and its shadow are told by where
   they touch the image border, by colours seen moving before contact, and by restless surroundings before contact.
4. *Mask*: colours of object, arm and background (Boykov and Jolly's region terms, 2001), the layer carried along, and
   the previous frame's mask decide each pixel.

Thresholds without another source were set on the simulated episodes of tests/benchmarks/mask_accuracy.py, and on others
recorded in the same way with other tasks, seeds and cameras.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.errors import ConfigError, LengthMismatchError
from extractors.geometry import dilate, resize_rgb
from extractors.masks import resize_mask
from extractors.types import Episode, Frames, Masks, Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Motion = NDArray[np.float64]

LEVELS = 16
"""Colour histograms have LEVELS bins per channel."""

UNIFORM = 1.0 / LEVELS**3
"""Share of a histogram bin when all colours are alike."""

MIN_FRAMES = 5
MIN_SIDE_PX = 24

_PATCH = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2).astype(np.float32)


@dataclass(frozen=True, slots=True)
class MotionSettings:
    """Thresholds of the motion segmenter; grey levels are of 255, pixels those of the working images.

    Attributes:
        working_px: longer side of the working images.
        match: colour difference up to which a pixel shows its home colour, grey levels.
        foreground: colour difference, shadow discounted, above which a pixel is foreground, grey levels.
        appearance: colour difference up to which a followed patch is the same, grey levels.
        min_shift_px: a point has moved when it is found this far from home.
        min_frames_moved: frames in which a point must be found elsewhere.
        reach_px: how far around a candidate its extent is looked for.
        search_px: how far a candidate may jump from one frame to the next beyond its last step.
        max_candidates: candidates that are checked by following them.
        horizon: frames after departure over which candidates are compared.
        min_score: a candidate scoring less is no object.
    """

    working_px: int = 256
    match: float = 12.0
    foreground: float = 20.0
    appearance: float = 14.0
    min_shift_px: float = 2.5
    min_frames_moved: int = 3
    reach_px: int = 30
    search_px: int = 14
    max_candidates: int = 6
    horizon: int = 40
    min_score: float = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """The clip at working size, and what each pixel does over time.

    Attributes:
        pixels: (T, h, w, 3) uint8.
        grey: (T, h, w) uint8.
        contact: frame in which the gripper first closes, None where unknown.
        window: frames 0 .. window-1 made the home image.
        home: (h, w, 3) float32, the scene before contact.
        support: (h, w) share of the window in which the pixel shows its home colour.
        distance: (T, h, w) uint8, difference from home with shading discounted, grey levels.
        departure: (h, w) frame after which the pixel never again shows home (0: never did, T: still does).
        stillness: (h, w) share of the frames before departure that show home.
        arm_colours: histogram of the foreground before contact.
        arm_likeness: (h, w) in [0, 1], that a home pixel has the arm's colour.
    """

    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    contact: int | None
    window: int
    home: Floats
    support: Floats
    distance: NDArray[np.uint8]
    departure: NDArray[np.int64]
    stillness: Floats
    arm_colours: NDArray[np.float64]
    arm_likeness: Floats

    @property
    def n_frames(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> Size:
        return int(self.home.shape[0]), int(self.home.shape[1])

    def blurred(self, frame: int, side: int = 3) -> Floats:
        """(h, w) distance of a frame from home, averaged over a box."""
        return np.asarray(cv2.blur(self.distance[frame].astype(np.float32), (side, side)), np.float32)


@dataclass(slots=True, eq=False)
class _Candidate:
    """What may be the object.

    Attributes:
        kind: "tracked" or "departed", how it was found.
        points: (N, 2) home pixels (x, y).
        departure: first frame in which it has left home.
        prior: score before it was followed.
        motions: (T, 2, 3) from home to each frame.
        cost: (T,) grey levels, how badly the carried points match each frame.
        extent: (h, w) bool, its pixels at home.
        score: after the check.
        facts: what the score was made from, for the report.
    """

    kind: str
    points: Floats
    departure: int
    prior: float = 0.0
    motions: Motion = field(default_factory=lambda: np.zeros((0, 2, 3)))
    cost: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    extent: Bools = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    score: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)


class MotionSegmenter:
    """Finds what starts to move when the robot touches it; see the module's text. Fixed cameras only."""

    device_name = "cpu"
    precision = "fp32"

    def __init__(self, **settings: Any) -> None:
        """`settings` are `MotionSettings`' fields.

        Raises:
            ConfigError: an unknown setting.
        """
        try:
            self.settings = MotionSettings(**settings)
        except TypeError as error:
            names = sorted(MotionSettings.__dataclass_fields__)
            raise ConfigError(f"motion masks take the settings {names}, got {sorted(settings)}") from error

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks of the object that starts to move; all False, with the reason in the report, where there is none.

        Raises:
            LengthMismatchError: the gripper signal has another length than the clip.
        """
        gripper = episode.gripper
        if gripper is not None and len(gripper) != episode.n_frames:
            raise LengthMismatchError(
                f"{episode.episode_id} has {episode.n_frames} frames and {len(gripper)} gripper values; check it"
            )
        pixels = _working_pixels(episode.pixels, self.settings.working_px)
        report: dict[str, Any] = {"backend": "motion", "camera_motion": False, "candidates": []}
        reason = _unusable(pixels)
        if reason is None and camera_moves(pixels):
            report["camera_motion"] = True
            reason = "the camera moves; motion masks need a fixed camera"
        if reason is None:
            scene, candidates = _find(pixels, gripper, self.settings)
            report["candidates"] = [_facts(candidate) for candidate in candidates]
            report["contact_frame"] = scene.contact
            if not candidates or candidates[0].score < self.settings.min_score:
                reason = "nothing that lay still starts to move"
        if reason is not None:
            report["reason"] = reason
            n_frames = episode.n_frames
            return Masks(np.zeros((n_frames, *size), np.bool_), np.zeros(n_frames, np.float32), report=report)
        chosen = candidates[0]
        rival = next((other.score for other in candidates[1:] if _overlap(other, chosen) < 0.5), 0.0)
        report["margin"] = round(chosen.score - rival, 4)
        masks = _label(scene, chosen, self.settings)
        objects = np.stack([resize_mask(mask, size) for mask in masks])
        confidence = chosen.score / (chosen.score + rival + 0.1)
        score = confidence * np.clip(1.2 - chosen.cost / 30.0, 0.0, 1.0) * objects.any(axis=(1, 2))
        return Masks(objects, np.clip(score, 0, 1).astype(np.float32), report=report)


def camera_moves(pixels: NDArray[np.uint8], *, unchanged: float = 0.5, share: float = 0.1) -> bool:
    """Whether the still scene itself moves: its edges change from frame to frame.

    The fifth of the pixels with the steepest grey-level slope tells: with a fixed camera 0.53 to 0.9 of them stay as
    they are, with a wrist camera 0.13 to 0.5 while it moves (measured on the simulated episodes). Corners would not do:
    in a smooth scene most of them lie on the arm.

    Args:
        pixels: (T, h, w, 3) uint8.
        unchanged: share of the edge pixels below which a step counts as camera motion.
        share: of the steps, above which the camera moves.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in pixels]
    grey = [cv2.GaussianBlur(each, (0, 0), 1.0) for each in grey]
    moving = []
    for before, after in pairwise(grey):
        slope = np.hypot(cv2.Sobel(before, cv2.CV_32F, 1, 0), cv2.Sobel(before, cv2.CV_32F, 0, 1)) / 8
        edge = slope > np.quantile(slope, 0.8)
        if not edge.any():
            continue
        # A lamp that flickers is no motion.
        gain = (before.mean() + 1) / (after.mean() + 1)
        still = np.abs(before - gain * after)[edge] < 0.5 * slope[edge] + 2
        moving.append(bool(still.mean() < unchanged))
    return bool(moving) and float(np.mean(moving)) > share


def _working_pixels(frames: Frames, longer_px: int) -> NDArray[np.uint8]:
    height, width = int(frames.shape[1]), int(frames.shape[2])
    # Thresholds are in working pixels, so small frames are enlarged, but not into mush.
    factor = min(longer_px / max(height, width), 4.0)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return np.stack([resize_rgb(np.asarray(frame), size) for frame in frames])


def _unusable(pixels: NDArray[np.uint8]) -> str | None:
    if len(pixels) < MIN_FRAMES:
        return f"motion masks need at least {MIN_FRAMES} frames, the clip has {len(pixels)}"
    if min(pixels.shape[1:3]) < MIN_SIDE_PX:
        return "the frames are too small for motion masks"
    return None


def _find(
    pixels: NDArray[np.uint8], gripper: NDArray[np.float32] | None, settings: MotionSettings
) -> tuple[_Scene, list[_Candidate]]:
    """The scene and its candidates, best first.

    Where the best one leaves home much later than the gripper signal says (a push, a handle), the home image is made
    again from all frames until then: the longer the window, the fewer places hide behind the arm.
    """
    contact = closing_frame(gripper)
    window = round(0.4 * len(pixels)) if contact is None else contact + 1
    window = min(max(window, 6), len(pixels))
    for _ in range(2):
        scene = _watch(pixels, contact, window, settings)
        candidates = sorted(_propose(scene, settings), key=lambda each: -each.prior)[: settings.max_candidates]
        for candidate in candidates:
            _check(scene, candidate, settings)
        candidates = _ranked(candidates)
        if not candidates or candidates[0].score <= 0 or candidates[0].departure <= window + 4:
            break
        window = candidates[0].departure - 1
    return scene, candidates


def _ranked(candidates: list[_Candidate]) -> list[_Candidate]:
    """Best first: the score decides, and among the better half of the scores, which left first.

    What the object comes to cover, or knocks against, leaves its home later than the object does.
    """
    candidates = sorted(candidates, key=lambda each: -each.score)
    rivals = [
        each
        for each in candidates
        if each.score > 0 and each.score >= 0.5 * candidates[0].score and each.facts["followed"] >= 0.5
    ]
    if len(rivals) > 1:
        first = min(each.departure for each in rivals)
        chosen = next(each for each in rivals if each.departure <= first + 2)
        candidates.remove(chosen)
        candidates.insert(0, chosen)
    return candidates


def closing_frame(gripper: NDArray[np.float32] | None) -> int | None:
    """First frame at which an open gripper has closed by half of its range, None where it never does."""
    if gripper is None or not np.isfinite(gripper).any():
        return None
    opening = np.where(np.isfinite(gripper), gripper, np.nanmedian(gripper))
    low, high = float(opening.min()), float(opening.max())
    # The gripper of a push trembles; a grasp closes by much more.
    if high - low < 0.2:
        return None
    is_open = opening > (low + high) / 2
    closing = np.flatnonzero(is_open[:-1] & ~is_open[1:]) + 1
    # A gripper that closes in the first frames is being set up, not grasping.
    closing = closing[closing >= 3]
    return int(closing[0]) if len(closing) else None


# --- the scene ---------------------------------------------------------------------------------------------------


def _watch(pixels: NDArray[np.uint8], contact: int | None, window: int, settings: MotionSettings) -> _Scene:
    n_frames = len(pixels)
    home, support = _home_image(pixels[:window], settings.match)
    distance = np.stack([_difference(frame, home) for frame in pixels])
    at_home = np.stack([cv2.blur(each, (3, 3)) for each in distance]) < 10
    departure = np.where(at_home.any(axis=0), n_frames - at_home[::-1].argmax(axis=0), 0)
    before = np.arange(n_frames)[:, None, None] < departure
    stillness = (at_home & before).sum(axis=0) / np.maximum(departure, 1)
    n_before = max(window - 3, 1)
    arm_colours = histogram(pixels[:n_before][distance[:n_before] > settings.foreground])
    # Without the places to which the arm came and stayed: those would call its colours the scene's.
    scene_colours = histogram(home[stillness > 0.9])
    arm, other = lookup(arm_colours, home), lookup(scene_colours, home)
    return _Scene(
        pixels=pixels,
        grey=np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pixels]),
        contact=contact,
        window=window,
        home=home,
        support=support,
        distance=distance,
        departure=departure,
        stillness=stillness.astype(np.float32),
        arm_colours=arm_colours,
        arm_likeness=((arm + 1e-5) / (arm + other + 2e-5)).astype(np.float32),
    )


def _home_image(pixels: NDArray[np.uint8], match: float, most: int = 40) -> tuple[Floats, Floats]:
    """The commonest colour of each pixel (h, w, 3), later frames counting more, and its share of the weight (h, w).

    Later frames count up to four times as much, so that what the arm hid at first and then left is seen.
    """
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), most)).round().astype(int))
    stack = pixels[chosen]
    weights = (0.3 + np.arange(len(stack)) / max(len(stack) - 1, 1)).astype(np.float32)
    home = np.median(stack, axis=0).astype(np.float32)
    support = np.ones(home.shape[:2], np.float32)
    span = stack.max(axis=0).astype(np.int16) - stack.min(axis=0)
    changed = span.max(axis=-1) > match
    values = stack[:, changed].astype(np.int16)
    best = np.zeros(values.shape[1], np.float32)
    colour = values[0].astype(np.float32)
    for candidate in values:
        near = np.abs(values - candidate).max(axis=-1) < match
        weight = weights @ near.astype(np.float32)
        better = weight > best
        best[better] = weight[better]
        colour[better] = candidate[better]
    home[changed] = colour
    support[changed] = best / weights.sum()
    return home, support


def _difference(frame: NDArray[np.uint8], home: Floats) -> NDArray[np.uint8]:
    """(h, w) uint8 largest channel difference between `frame` and `home`, grey levels, shading discounted.

    A shadow scales all channels alike: what is left after the best common factor counts, in both directions (a shadow
    comes or goes), unless the factor is below 0.3, darker than any shadow on the data. Shading costs 3 levels, and the
    rest counts 1.4 times, so that grey objects are not taken for shadows for free.
    """
    image = frame.astype(np.float32)
    plain = np.abs(image - home).max(axis=-1)
    brighter = (image.sum(axis=-1) > home.sum(axis=-1))[..., None]
    high, low = np.where(brighter, image, home), np.where(brighter, home, image)
    factor = (low * high).sum(axis=-1) / ((high * high).sum(axis=-1) + 1)
    rest = 1.4 * np.abs(low - factor[..., None] * high).max(axis=-1) + 3 * (factor < 0.95)
    shaded = (factor > 0.3) & _same_texture(image.mean(axis=-1), home.mean(axis=-1))
    out: NDArray[np.uint8] = np.where(shaded, np.minimum(rest, plain), plain).clip(0, 255).astype(np.uint8)
    return out


def _same_texture(image: Floats, home: Floats, side: int = 7, smallest: float = 2.5, correlation: float = 0.5) -> Bools:
    """(h, w) bool: a shadow may explain the change, because the texture of `home` is still there, or it has none.

    The best of the overlapping windows counts, so that a shadow's edge is not taken for a change of texture.
    """

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (side, side)), np.float32)

    image_mean, home_mean = mean(image), mean(home)
    image_spread = np.sqrt(np.maximum(mean(image * image) - image_mean**2, 0))
    home_spread = np.sqrt(np.maximum(mean(home * home) - home_mean**2, 0))
    common = mean(image * home) - image_mean * home_mean
    alike = common / np.maximum(image_spread * home_spread, 1.0)
    # The darker of the two needs contrast enough to be told from noise.
    darker = np.minimum(image_mean, home_mean) / np.maximum(home_mean, 1.0)
    alike = np.where(home_spread * darker < smallest, 1.0, alike).astype(np.float32)
    best: Bools = cv2.dilate(alike, np.ones((side - 2, side - 2), np.uint8)) > correlation
    return best


def histogram(colours: NDArray[Any], spread: float = 0.7) -> NDArray[np.float64]:
    """(LEVELS**3,) shares of RGB colours (N, 3) of 0..255, smoothed over `spread` bins; uniform where N is 0."""
    if not len(colours):
        return np.full(LEVELS**3, UNIFORM)
    counts = np.bincount(_bins(colours), minlength=LEVELS**3).astype(np.float64)
    smooth = ndimage.gaussian_filter(counts.reshape(LEVELS, LEVELS, LEVELS), spread, mode="nearest")
    shares: NDArray[np.float64] = (smooth / smooth.sum()).ravel()
    return shares


def lookup(colours: NDArray[np.float64], image: NDArray[Any]) -> NDArray[np.float64]:
    """(...) shares of the colours of `image` (..., 3)."""
    shares: NDArray[np.float64] = colours[_bins(image)]
    return shares


def _bins(image: NDArray[Any]) -> NDArray[np.int32]:
    levels = image.astype(np.int32) // (256 // LEVELS)
    bins: NDArray[np.int32] = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
    return bins


# --- candidates --------------------------------------------------------------------------------------------------


def _propose(scene: _Scene, settings: MotionSettings) -> list[_Candidate]:
    earliest = 2 if scene.contact is None else max(scene.contact - 3, 1)
    candidates = _tracked_groups(scene, settings, earliest) + _departed_regions(scene, earliest)
    for candidate in candidates:
        candidate.prior = _prior(scene, candidate)
    return candidates


def _tracked_groups(scene: _Scene, settings: MotionSettings, earliest: int) -> list[_Candidate]:
    """Groups of neighbouring points that lay still until `earliest` or later and were found again elsewhere."""
    points, found, at_home = _track_from_home(scene, settings)
    if not len(points):
        return []
    n_frames = scene.n_frames
    last_home = np.where(at_home.any(axis=0), n_frames - 1 - at_home[::-1].argmax(axis=0), -1)
    still = (at_home & (np.arange(n_frames)[:, None] <= last_home)).sum(axis=0) / np.maximum(last_home + 1, 1)
    n_found = found.sum(axis=0)
    chosen = (n_found >= settings.min_frames_moved) & (last_home >= earliest) & (last_home <= n_frames - 4)
    chosen &= still > 0.5
    seeds = np.zeros(scene.size, np.bool_)
    columns, rows = points.astype(int).T
    seeds[rows[chosen], columns[chosen]] = True
    groups, n_groups = ndimage.label(dilate(seeds, 3))
    group = np.where(chosen, groups[rows, columns], 0)
    out = []
    for number in range(1, n_groups + 1):
        member = group == number
        if member.sum() < 6:
            continue
        candidate = _Candidate("tracked", points[member], int(np.median(last_home[member])) + 1)
        after = np.maximum(n_frames - 1 - last_home[member], 1)
        candidate.facts = {"found": float((n_found[member] / after).mean()), "still": float(still[member].mean())}
        out.append(candidate)
    return out


def _track_from_home(scene: _Scene, settings: MotionSettings, spacing: int = 2) -> tuple[Floats, Bools, Bools]:
    """Points (N, 2) of the home image followed through the clip: found elsewhere (T, N), and at home (T, N).

    A point whose place shows home again is put back there; "found elsewhere" asks for its appearance, on foreground.
    """
    height, width = scene.size
    n_frames = scene.n_frames
    changed = np.zeros(scene.size, np.int64)
    for frame in range(max(scene.window - 3, 1), n_frames):
        changed += scene.blurred(frame, 5) > settings.foreground
    grid_y, grid_x = np.mgrid[1:height:spacing, 1:width:spacing]
    use = changed[grid_y, grid_x] >= 3
    points = np.stack([grid_x[use], grid_y[use]], -1).astype(np.float32)
    found = np.zeros((n_frames, len(points)), np.bool_)
    at_home = np.zeros_like(found)
    if not len(points):
        return points, found, at_home
    columns, rows = points.astype(int).T
    wanted = _patches(scene.home, points)
    here = points
    for frame in range(n_frames):
        box = scene.blurred(frame, 5)
        at_home[frame] = box[rows, columns] < 10
        moved = _flow(scene, frame, here) if frame else here
        here = np.where(at_home[frame][:, None], points, moved).astype(np.float32)
        error = _patch_error(_patches(scene.pixels[frame].astype(np.float32), here), wanted)
        found[frame] = (
            (error < settings.appearance)
            & ~at_home[frame]
            & (sample(box, here) > settings.foreground)
            & (np.linalg.norm(here - points, axis=-1) > settings.min_shift_px)
            & ((here > 0) & (here < np.array([width - 1, height - 1]))).all(axis=-1)
        )
    return points, found, at_home


def _departed_regions(scene: _Scene, earliest: int, smallest: int = 25) -> list[_Candidate]:
    """Connected regions that lay still until `earliest` or later and then never showed home again."""
    left = (scene.departure >= earliest) & (scene.departure <= scene.n_frames - 3) & (scene.stillness > 0.5)
    regions, n_regions = ndimage.label(cv2.morphologyEx(left.astype(np.uint8), cv2.MORPH_OPEN, _disc(1)))
    out = []
    for number, where in enumerate(ndimage.find_objects(regions), start=1):
        member = regions[where] == number
        if n_regions == 0 or member.sum() < smallest:
            continue
        rows, columns = np.nonzero(member)
        points = np.stack([columns + where[1].start, rows + where[0].start], -1).astype(np.float32)
        departure = int(np.percentile(scene.departure[where][member], 20))
        candidate = _Candidate("departed", points, departure)
        candidate.facts = {"found": 0.0, "still": float(scene.stillness[where][member].mean())}
        out.append(candidate)
    return out


def _prior(scene: _Scene, candidate: _Candidate) -> float:
    """Score in [0, 1] before the candidate was followed, which costs time."""
    height, width = scene.size
    columns, rows = candidate.points.astype(int).T
    n_pixels = len(columns) * (4 if candidate.kind == "tracked" else 1)
    border = _border_pixels(columns, rows, scene.size) * (n_pixels / len(columns)) ** 0.5 / np.sqrt(n_pixels)
    return float(
        _timing(candidate.departure, scene)
        * (1 - 0.7 * min(border, 1))
        * (1.1 - scene.arm_likeness[rows, columns].mean())
        * candidate.facts["still"]
        * min(n_pixels / (0.05 * height * width), 1.0) ** 0.25
        * (0.3 + 0.7 * candidate.facts["found"])
        / 1.1
    )


def _timing(departure: int, scene: _Scene) -> float:
    """How well a departure fits the gripper: two frames after it closed, later rather than sooner."""
    if scene.contact is None:
        return float(np.exp(-0.5 * ((departure / scene.n_frames - 0.5) / 0.3) ** 2))
    late = departure - scene.contact - 2
    return float(np.exp(-late / 12.0) if late > 0 else np.exp(-0.5 * (late / 5.0) ** 2))


def _border_pixels(columns: NDArray[Any], rows: NDArray[Any], size: Size) -> int:
    """The length of contact with the border: pixels in the outermost two rows or columns, halved."""
    height, width = size
    near = (columns < 2) | (rows < 2) | (columns >= width - 2) | (rows >= height - 2)
    return int(near.sum()) // 2


# --- the check ---------------------------------------------------------------------------------------------------


def _check(scene: _Scene, candidate: _Candidate, settings: MotionSettings) -> None:
    """Follows the candidate, finds its extent at home, follows that, and scores it."""
    points, departure = candidate.points, candidate.departure
    for tolerance in (20.0, 13.0):
        last = min(scene.n_frames, departure + settings.horizon)
        motions, cost = _follow(scene, points, range(max(departure - 1, 0), last), settings)
        matched = cost < tolerance
        extent = _extent(scene, motions, matched, points, departure, last, settings)
        candidate.extent, candidate.departure = extent, departure
        if extent.sum() < 12:
            return
        points = _pixels_of(extent)
        departure = int(np.clip(np.percentile(scene.departure[extent], 25), 1, scene.n_frames - 2))
    candidate.points, candidate.departure = points, departure
    candidate.motions, candidate.cost = motions, cost
    centre = points.mean(axis=0)[None]
    travel = max(float(np.linalg.norm(carry(motions[t], centre) - centre)) for t in range(departure, last))
    ring = dilate(extent, 5.5) & ~dilate(extent, 1)
    quiet = scene.distance[: max(int(0.7 * departure), 1)][:, ring]
    columns, rows = points.astype(int).T
    facts = {
        "timing": _timing(departure, scene),
        "followed": float(matched[departure:last].mean()),
        "travel_px": travel,
        "border": float(min(_border_pixels(columns, rows, scene.size) / np.sqrt(len(points)), 1.0)),
        "arm_likeness": float(scene.arm_likeness[extent].mean()),
        "restless": float((quiet > settings.foreground).mean()),
        "still": float(scene.stillness[extent].mean()),
        "area": float(extent.mean()),
    }
    candidate.facts = facts
    candidate.score = (
        facts["timing"]
        * (1 - facts["restless"]) ** 3
        * (1 - 0.7 * facts["border"])
        * (1.1 - facts["arm_likeness"])
        / 1.1
        * facts["still"]
        * min(facts["area"] / 0.03, 1.0) ** 0.33
        * (0.1 + 0.9 * facts["followed"])
        * min(travel / 10, 1.0)
    )


def _follow(
    scene: _Scene, points: Floats, frames: Sequence[int], settings: MotionSettings, most: int = 150
) -> tuple[Motion, Floats]:
    """Similarity motions (T, 2, 3) that carry home `points` through `frames`, the first of them at home; cost (T,).

    In each frame the Lucas-Kanade fit, the best shift within `search_px` of the last step, and rest compete. The cost
    is the mean colour difference of the better half of the points, so that the gripper may hide the other half.
    """
    if len(points) > most:
        points = points[np.linspace(0, len(points) - 1, most).round().astype(int)]
    columns, rows = points.astype(int).T
    colours = scene.home[rows, columns]
    wanted = _patches(scene.home, points)
    motions = np.tile(np.eye(2, 3), (scene.n_frames, 1, 1))
    cost = np.zeros(scene.n_frames, np.float32)
    step = np.zeros(2)
    centre = points.mean(axis=0)[None]
    for before, frame in pairwise(frames):
        image, box = scene.pixels[frame].astype(np.float32), scene.blurred(frame)
        tried = [*_flow_fit(scene, before, frame, motions[before], points, wanted, image)]
        n_fits = len(tried)
        tried.append(_search(image, box, motions[before], step, points, colours, settings))
        tried.append(motions[before])
        costs = [_better_half(_point_cost(image, box, carry(each, points), colours)) for each in tried]
        # A fit uses texture and sees rotation and scale: it wins where both are as good.
        best = int(np.argmin(np.array(costs) - 1.5 * (np.arange(len(tried)) < n_fits)))
        motions[frame], cost[frame] = tried[best], costs[best]
        step = (carry(motions[frame], centre) - carry(motions[before], centre))[0].astype(np.float64)
        if cost[frame] > settings.appearance:
            step *= 0.5
    return motions, cost


def _flow_fit(
    scene: _Scene, before: int, frame: int, motion: Motion, points: Floats, wanted: Floats, image: Floats
) -> Iterable[Motion]:
    start = carry(motion, points)
    here = _flow(scene, frame, start, before)
    good = _patch_error(_patches(image, here), wanted) < 18
    if good.sum() >= 5:
        yield _fit_similarity(points[good], here[good], motion)


def _search(
    image: Floats, box: Floats, motion: Motion, step: Motion, points: Floats, colours: Floats, settings: MotionSettings
) -> Motion:
    """`motion` shifted to where the points match best, searched every second pixel, then every one."""
    start = carry(motion, points) + step.astype(np.float32)
    reach = np.arange(-settings.search_px, settings.search_px + 1, 2, dtype=np.float32)
    best = np.zeros(2, np.float32)
    for offsets, price in ((reach, 0.08), (np.arange(-1, 2, dtype=np.float32), 0.0)):
        shifts = best + np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 2)
        cost = _better_half(_point_cost(image, box, start[None] + shifts[:, None], colours[None]))
        best = shifts[np.argmin(cost + price * np.linalg.norm(shifts, axis=1))]
    moved = motion.copy()
    moved[:, 2] += step + best
    return moved


def _extent(
    scene: _Scene,
    motions: Motion,
    matched: Bools,
    points: Floats,
    departure: int,
    last: int,
    settings: MotionSettings,
) -> Bools:
    """(h, w) bool: the home pixels near `points` that "moves with the candidate" explains better than "stays"."""
    out = np.zeros(scene.size, np.bool_)
    frames = _moved_frames(motions, matched, points, departure, last)
    if len(frames) < 2:
        return out
    where = _window(points, scene.size, settings.reach_px)
    carried, stays = _layer_costs(scene, motions, frames, where)
    mask = (carried < 16) & (carried < stays - 3) & (scene.stillness[where] > 0.4)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(2))
    out[where] = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(1)) > 0
    seeds = np.zeros(scene.size, np.bool_)
    columns, rows = points.astype(int).T
    seeds[rows, columns] = True
    regions, _ = ndimage.label(out)
    kept = np.unique(regions[dilate(seeds, 1) & out])
    filled: Bools = ndimage.binary_fill_holes(np.isin(regions, kept) & out)
    return filled


def _moved_frames(
    motions: Motion, matched: Bools, points: Floats, departure: int, last: int, most: int = 14
) -> NDArray[np.int64]:
    """Up to about `most` frames in which the points are matched and more than 4 px away from home."""
    centre = points.mean(axis=0)[None]
    away = [float(np.linalg.norm(carry(motions[t], centre) - centre)) > 4 for t in range(departure, last)]
    frames = departure + np.flatnonzero(np.array(away, np.bool_) & matched[departure:last])
    return frames[:: max(1, len(frames) // most)]


def _layer_costs(
    scene: _Scene, motions: Motion, frames: NDArray[np.int64], where: tuple[slice, slice]
) -> tuple[Floats, Floats]:
    """Costs (h', w') of "moves with the candidate" and "stays", grey levels: the better 40 % of `frames` count."""
    rows, columns = np.mgrid[where]
    points = np.stack([columns, rows], -1).reshape(-1, 2).astype(np.float32)
    colours = scene.home[where].reshape(-1, 3)
    carried = np.stack(
        [
            _point_cost(scene.pixels[t].astype(np.float32), scene.blurred(t), carry(motions[t], points), colours)
            for t in frames
        ]
    ).reshape(len(frames), *rows.shape)
    stays = np.minimum(scene.distance[frames][:, where[0], where[1]].astype(np.float32), 50)
    n_best = max(1, round(0.4 * len(frames)))

    def summary(costs: Floats) -> Floats:
        best = np.sort(costs, axis=0)[:n_best].mean(axis=0).astype(np.float32)
        return np.asarray(cv2.GaussianBlur(best, (0, 0), 0.8), np.float32)

    return summary(carried), summary(stays)


# --- the mask ----------------------------------------------------------------------------------------------------


def _label(scene: _Scene, chosen: _Candidate, settings: MotionSettings) -> Bools:
    """(T, h, w) bool masks of the chosen candidate in all frames."""
    departure = chosen.departure
    motions, cost = _follow(scene, chosen.points, range(max(departure - 1, 0), scene.n_frames), settings)
    extent = _refined_extent(scene, chosen, motions, cost, settings)
    chosen.motions, chosen.cost = motions, cost
    out = np.zeros(scene.pixels.shape[:3], np.bool_)
    visible = scene.distance[:departure] < settings.foreground
    for frame in range(departure):
        out[frame] = extent & (cv2.blur(visible[frame].astype(np.float32), (3, 3)) > 0.45)
    labeller = _Labeller(scene, extent)
    for frame in range(departure, scene.n_frames):
        out[frame] = labeller.label(frame, motions[frame])
    return out


def _refined_extent(
    scene: _Scene, chosen: _Candidate, motions: Motion, cost: Floats, settings: MotionSettings
) -> Bools:
    """The candidate's home pixels, decided by layer costs and by the colours of object and background together."""
    extent, home = chosen.extent, scene.home
    where = _window(chosen.points, scene.size, 26)
    stays = _uncovered_cost(scene, chosen, extent)
    static = stays < 12
    near = np.zeros(scene.size, np.bool_)
    near[where] = dilate(extent[where], 25)
    colours = 0.9 * histogram(home[extent & ~static]) + 0.1 * UNIFORM
    others = 0.95 * histogram(home[near & static & ~extent]) + 0.05 * UNIFORM
    evidence = 0.8 * np.clip(np.log(lookup(colours, home) / lookup(others, home)), -3, 3)
    frames = _moved_frames(
        motions, cost < 13.0, chosen.points, min(chosen.departure + 2, scene.n_frames), scene.n_frames
    )
    carried = np.full(scene.size, 40, np.float32)
    if len(frames) >= 2:
        carried[where] = _layer_costs(scene, motions, frames, where)[0]
    lead = np.clip((np.minimum(stays, 50) - carried) / 8, -2, np.where(carried < 16, 2, 0))
    evidence += lead - 5 * (static & (carried > 10)) - 3 * (scene.stillness < 0.35)
    smooth = cv2.GaussianBlur(np.where(near, evidence, -5).astype(np.float32), (0, 0), 1.0)
    refined = _tidy(smooth > 0, extent)
    return refined if refined.sum() >= 12 else extent


def _uncovered_cost(scene: _Scene, chosen: _Candidate, extent: Bools, most: int = 14) -> Floats:
    """(h, w) difference from home after departure, grey levels, over the frames in which the arm does not cover it."""
    after = np.arange(min(chosen.departure + 2, scene.n_frames - 1), scene.n_frames)
    after = after[:: max(1, len(after) // most)]
    around = histogram(scene.home[~dilate(extent, 25)][::3])
    arm = np.stack(
        [
            lookup(scene.arm_colours, scene.pixels[t]) > 4 * np.maximum(lookup(around, scene.pixels[t]), 0.02 * UNIFORM)
            for t in after
        ]
    )
    distance = scene.distance[after].astype(np.float32)
    free = (~arm).sum(axis=0)
    # Where the arm always covers the pixel, its difference counts after all.
    ordered = np.sort(np.where(arm & (free >= 2), np.inf, distance), axis=0)
    share = np.where(free >= 2, 0.3 * (free - 1), 0.2 * (len(after) - 1)).round().astype(int)
    cost = np.take_along_axis(ordered, share[None], axis=0)[0]
    return np.asarray(cv2.GaussianBlur(cost.astype(np.float32), (0, 0), 0.7), np.float32)


class _Labeller:
    """Decides frame by frame which pixels are the object, in the order of the frames."""

    def __init__(self, scene: _Scene, extent: Bools) -> None:
        self._scene = scene
        self._colours = 0.85 * histogram(scene.home[extent]) + 0.15 * UNIFORM
        self._background = 0.95 * histogram(scene.home[~extent][::3]) + 0.05 * UNIFORM
        self._arm = 0.97 * scene.arm_colours + 0.03 * UNIFORM
        self._signed = _signed_distance(extent)
        self._vacated = dilate(extent, 2)
        # What appears where home is unsure (the arm hid it) may well be background.
        self._unsure = (0.3 * np.clip(0.7 - scene.support, 0, 1) + 0.0001).astype(np.float32)
        self._before: tuple[Bools, Motion] | None = None

    def label(self, frame: int, motion: Motion) -> Bools:
        """(h, w) bool mask of one frame; `motion` (2, 3) carries the home extent there."""
        height, width = self._scene.size
        carried = cv2.warpAffine(self._signed, motion, (width, height), borderValue=-30)
        prior = np.clip(carried / 1.5, -4, 3)
        core = carried > 0
        if self._before is not None:
            mask, last = self._before
            step = (_square(motion) @ np.linalg.inv(_square(last)))[:2]
            kept = cv2.warpAffine(_signed_distance(mask), step, (width, height), borderValue=-30)
            prior = np.maximum(prior, np.clip((kept - 1) / 3.0, -4, 1.5))
            core |= kept > 0
        evidence = cv2.GaussianBlur((prior + self._likelihood(frame)).astype(np.float32), (0, 0), 0.9)
        mask = _tidy(evidence > 0, core & (evidence > 0))
        self._before = (mask, motion) if mask.any() else None
        return mask

    def _likelihood(self, frame: int) -> NDArray[np.float64]:
        """(h, w) log of the pixel's likelihood as object over that as anything else, within -4 .. 4."""
        scene, image = self._scene, self._scene.pixels[frame]
        background = lookup(self._background, image)
        # Laplacian noise of 5 levels per channel around home, as a share of a bin's volume.
        unchanged = np.exp(scene.distance[frame].astype(np.float64) / -5.0) / (8 * np.pi * 5.0**3) * (256 / LEVELS) ** 3
        unchanged = np.where(self._vacated, 0.5 * background, np.maximum(unchanged, 1e-7))
        appeared = np.where(self._vacated, 0.0, self._unsure * background)
        others = 0.5 * lookup(self._arm, image) + unchanged + appeared
        ratio: NDArray[np.float64] = np.clip(np.log(lookup(self._colours, image) / others), -4, 4)
        return ratio


# --- small parts -------------------------------------------------------------------------------------------------


def carry(motion: Motion, points: NDArray[Any]) -> Floats:
    """`points` (..., 2) moved by `motion` (2, 3), float32."""
    return np.asarray(points @ motion[:, :2].T + motion[:, 2], np.float32)


def sample(image: NDArray[Any], points: Floats) -> Floats:
    """Bilinear values (...[, C]) of `image` (h, w[, C]) float32 at `points` (..., 2); the border is repeated."""
    flat = points.reshape(-1, 2)
    # remap takes at most 32767 rows or columns.
    rows = -(-len(flat) // 512)
    sheet = np.zeros((rows * 512, 2), np.float32)
    sheet[: len(flat)] = flat
    x, y = (np.ascontiguousarray(sheet[:, axis].reshape(rows, 512)) for axis in (0, 1))
    values = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values = values.reshape(-1, *image.shape[2:])[: len(flat)]
    return np.asarray(values.reshape(*points.shape[:-1], *image.shape[2:]), np.float32)


def _point_cost(image: Floats, box: Floats, points: Floats, colours: Floats) -> Floats:
    """(...) colour difference of `image` at `points` from `colours`, exposure discounted, grey levels, at most 50.

    At least 25 where the image shows home (`box`): what the background explains is no match. 50 outside the image.
    """
    found = sample(image, points)
    gain = ((found * colours).sum(axis=-1) / ((colours * colours).sum(axis=-1) + 1)).clip(0.75, 1.2)
    cost = np.minimum(np.abs(found - gain[..., None] * colours).max(axis=-1), 50)
    cost = np.where(sample(box, points) < 10, np.maximum(cost, 25), cost)
    height, width = box.shape
    inside = ((points >= 0) & (points <= np.array([width - 1, height - 1], np.float32))).all(axis=-1)
    return np.where(inside, cost, 50).astype(np.float32)


def _better_half(cost: Floats) -> Floats:
    """(...) mean of the lower half of (..., N)."""
    half = max(cost.shape[-1] // 2, 1)
    return np.asarray(np.partition(cost, half - 1, axis=-1)[..., :half].mean(axis=-1), np.float32)


def _flow(scene: _Scene, frame: int, points: Floats, before: int | None = None) -> Floats:
    """`points` (N, 2) of frame `before` (the one before, unless given) found in `frame` by Lucas-Kanade."""
    before = frame - 1 if before is None else before
    start = np.ascontiguousarray(points.reshape(-1, 1, 2), np.float32)
    images = (scene.grey[before], scene.grey[frame])
    moved, _, _ = cv2.calcOpticalFlowPyrLK(
        *images, start, np.empty_like(start), winSize=(11, 11), maxLevel=3, criteria=(3, 15, 0.03)
    )
    return np.asarray(moved.reshape(-1, 2), np.float32)


def _patches(image: Floats, points: Floats) -> Floats:
    """(N, 25, 3) colours of the 5 x 5 pixels around each point."""
    return sample(image, points[:, None] + _PATCH)


def _patch_error(found: Floats, wanted: Floats) -> Floats:
    """(N,) mean colour difference of patches, exposure discounted, grey levels."""
    gain = ((found * wanted).sum(axis=(1, 2)) / ((wanted * wanted).sum(axis=(1, 2)) + 1)).clip(0.7, 1.25)
    return np.asarray(np.abs(found - gain[:, None, None] * wanted).mean(axis=(1, 2)), np.float32)


def _fit_similarity(points: Floats, found: Floats, start: Motion) -> Motion:
    """Similarity (2, 3) that carries `points` to `found` (N, 2), reweighted with Tukey's biweight at 5 px."""
    motion = start.copy()
    motion[:, 2] += np.median(found - carry(motion, points), axis=0)
    for _ in range(6):
        residual = np.linalg.norm(found - carry(motion, points), axis=1)
        weight = np.square(np.maximum(1 - np.square(residual / 5.0), 0))
        if (weight > 0).sum() < 4:
            return motion
        motion = _similarity(points.astype(np.float64), found.astype(np.float64), weight / weight.sum())
    return motion


def _similarity(points: Motion, found: Motion, weight: NDArray[np.float64]) -> Motion:
    """Weighted least-squares similarity, pulled to pure translation by a ridge of 20 px^2 (few, close points)."""
    from_centre, to_centre = weight @ points, weight @ found
    p, q = points - from_centre, found - to_centre
    ridge = 20.0
    spread = weight @ (p * p).sum(axis=1) + ridge
    cosine = (weight @ (p * q).sum(axis=1) + ridge) / spread
    sine = (weight @ (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([turn, (to_centre - turn @ from_centre)[:, None]], axis=1)


def _tidy(mask: Bools, core: Bools, smallest_hole: int = 20) -> Bools:
    """The connected parts of `mask` of which `core` covers more than 15 %, small holes closed."""
    regions, n_regions = ndimage.label(mask)
    if not n_regions:
        return mask
    covered = np.bincount(regions[core], minlength=n_regions + 1)
    area = np.bincount(regions.ravel(), minlength=n_regions + 1)
    good = covered > 0.15 * area
    good[0] = False
    kept: Bools = good[regions]
    holes, _ = ndimage.label(~kept)
    small = np.bincount(holes.ravel()) < smallest_hole
    small[0] = False
    filled: Bools = kept | small[holes]
    return filled


def _signed_distance(mask: Bools) -> Floats:
    """(h, w) pixels to the mask's edge, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(inside - cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3), np.float32)


def _window(points: Floats, size: Size, margin: int) -> tuple[slice, slice]:
    """Rows and columns around `points`, `margin` pixels wider where there is room."""
    low = np.maximum(points.min(axis=0).astype(int) - margin, 0)
    high = np.minimum(points.max(axis=0).astype(int) + margin + 1, [size[1], size[0]])
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _pixels_of(mask: Bools) -> Floats:
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], -1).astype(np.float32)


def _square(motion: Motion) -> Motion:
    return np.concatenate([motion, [[0.0, 0.0, 1.0]]])


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _overlap(first: _Candidate, second: _Candidate) -> float:
    """Share of the smaller extent that the two have in common."""
    smaller = min(int(first.extent.sum()), int(second.extent.sum()))
    return float((first.extent & second.extent).sum()) / smaller if smaller else 0.0


def _facts(candidate: _Candidate) -> dict[str, Any]:
    facts = {name: round(value, 4) for name, value in candidate.facts.items()}
    return {"kind": candidate.kind, "departure": candidate.departure, "score": round(candidate.score, 4), **facts}
