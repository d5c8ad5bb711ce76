"""What each pixel of a fixed camera's clip does: the scene before contact, and when it leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.types import Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

LEVELS = 16
"""Colour histograms have LEVELS bins per channel."""

UNIFORM = 1.0 / LEVELS**3
"""Share of a histogram bin when all colours are alike."""


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
        max_labelled: of these, the best few distinct ones get masks and are compared by them.
        rival_share: a candidate scoring less than this share of the best is not among them.
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
    max_labelled: int = 4
    rival_share: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
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
        """Frames of the clip."""
        return len(self.pixels)

    @property
    def size(self) -> Size:
        """(h, w) of the working images."""
        return int(self.home.shape[0]), int(self.home.shape[1])

    def blurred(self, frame: int, side: int = 3) -> Floats:
        """(h, w) distance of a frame from home, averaged over a box."""
        return np.asarray(cv2.blur(self.distance[frame].astype(np.float32), (side, side)), np.float32)


def watch(pixels: NDArray[np.uint8], contact: int | None, window: int, settings: MotionSettings) -> Scene:
    """What each pixel of `pixels` (T, h, w, 3) uint8 does; the first `window` frames make the home image."""
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
    return Scene(
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
