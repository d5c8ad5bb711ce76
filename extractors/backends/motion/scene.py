"""What each pixel of a fixed camera's clip does: the scene before anything is moved, and when it leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.geometry import sample_indices
from extractors.types import Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

LEVELS = 16
"""Colour histograms have LEVELS bins per channel."""

UNIFORM = 1.0 / LEVELS**3
"""Share of a histogram bin when all colours are alike."""


@dataclass(frozen=True, slots=True)
class MotionSettings:
    """Thresholds of what motion tells; grey levels are of 255.

    Attributes:
        working_px: longer side of the working images: a resolution, at which all work is done.
        match: colour difference up to which a pixel shows its home colour, grey levels.
        at_home: the same, averaged over neighbours.
        foreground: colour difference, shadow discounted, above which a pixel is foreground, grey levels.
        appearance: colour difference up to which what is followed is the same, grey levels.
    """

    working_px: int = 256
    match: float = 12.0
    at_home: float = 10.0
    foreground: float = 20.0
    appearance: float = 14.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The clip's moments at working size, and what each pixel does over time.

    Attributes:
        settings: thresholds.
        pixels: (T, h, w, 3) uint8.
        grey: (T, h, w) uint8.
        home: (h, w, 3) float32, the scene in the first moments: before anything is moved.
        distance: (T, h, w) uint8, difference from home with shading discounted, grey levels.
        departure: (h, w) moment after which the pixel never again shows home (0: never did, T: still does).
        stillness: (h, w) share of the moments before departure that show home.
        arm_colours: histogram of the foreground in the first moments.
    """

    settings: MotionSettings
    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    home: Floats
    distance: NDArray[np.uint8]
    departure: NDArray[np.int64]
    stillness: Floats
    arm_colours: NDArray[np.float64]

    @property
    def n_moments(self) -> int:
        """T."""
        return len(self.pixels)

    @property
    def size(self) -> Size:
        """(h, w) of the working images."""
        return int(self.home.shape[0]), int(self.home.shape[1])

    @property
    def smallest(self) -> float:
        """Pixels of the smallest thing, hole or part that counts: 0.02 % of the frame, a centimetre in half a metre."""
        return float(0.0002 * self.home.shape[0] * self.home.shape[1])

    def px(self, share: float) -> float:
        """Working pixels in a `share` of the frame's longer side."""
        return share * max(self.size)

    def blurred(self, moment: int, side: int = 3) -> Floats:
        """(h, w) distance of a moment from home, averaged over a box."""
        return np.asarray(cv2.blur(self.distance[moment].astype(np.float32), (side, side)), np.float32)


def watch(pixels: NDArray[np.uint8], window: int, settings: MotionSettings) -> Scene:
    """What each pixel of `pixels` (T, h, w, 3) uint8 does; the first `window` moments make the home image."""
    n_moments = len(pixels)
    home = _home_image(pixels[:window], settings.match)
    distance = np.stack([_difference(image, home) for image in pixels])
    at_home = np.stack([cv2.blur(each, (3, 3)) for each in distance]) < settings.at_home
    departure = np.where(at_home.any(axis=0), n_moments - at_home[::-1].argmax(axis=0), 0)
    before = np.arange(n_moments)[:, None, None] < departure
    return Scene(
        settings=settings,
        pixels=pixels,
        grey=np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pixels]),
        home=home,
        distance=distance,
        departure=departure,
        stillness=((at_home & before).sum(axis=0) / np.maximum(departure, 1)).astype(np.float32),
        arm_colours=histogram(pixels[:window][distance[:window] > settings.foreground]),
    )


def _home_image(pixels: NDArray[np.uint8], match: float, most: int = 40) -> Floats:
    """The commonest colour of each pixel (h, w, 3), in at most `most` images spread evenly (bounds the work)."""
    stack = pixels[sample_indices(len(pixels), most)]
    home: Floats = np.median(stack, axis=0).astype(np.float32)
    span = stack.max(axis=0).astype(np.int16) - stack.min(axis=0)
    changed = span.max(axis=-1) > match
    values = stack[:, changed].astype(np.int16)
    best = np.zeros(values.shape[1], np.int64)
    colour = values[0].astype(np.float32)
    # The latest of equally common ones: what the arm hid at first and then left is seen.
    for candidate in values:
        votes = (np.abs(values - candidate).max(axis=-1) < match).sum(axis=0)
        better = votes >= best
        best[better] = votes[better]
        colour[better] = candidate[better]
    home[changed] = colour
    return home


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
