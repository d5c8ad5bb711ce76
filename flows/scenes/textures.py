"""Square pictures to paint surfaces with: noise, stripes, checkers, wood, and photographs from scikit-image."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Rng = np.random.Generator

SIDE = 128
"""Pixels of a picture's side: what a surface shows at the sizes that the scenes are drawn in."""

PHOTOGRAPHS = (
    "coffee",
    "astronaut",
    "chelsea",
    "rocket",
    "grass",
    "gravel",
    "brick",
    "immunohistochemistry",
    "retina",
    "page",
    "coins",
)
"""Pictures in scikit-image's wheel; its other ones are fetched from the network, and so not used."""


def random_colour(rng: Rng) -> NDArray[np.float64]:
    """(3,) RGB in [0, 1]; a third are greys, since metal, plastic and walls are."""
    if rng.random() < 0.33:
        return np.clip(np.full(3, rng.uniform(0.03, 0.97)) + rng.normal(0, 0.03, 3), 0, 1)
    hsv = np.array([[[rng.integers(180), rng.integers(60, 256), rng.integers(50, 256)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] / 255.0, np.float64)


def random_picture(rng: Rng, *, busy: float = 1.0) -> Picture:
    """(SIDE, SIDE, 3) uint8; `busy` in [0, 1] is the chance of anything but a plain, slightly uneven colour."""
    if rng.random() > busy:
        return _painted(rng, _noise(rng, 0.5) * rng.uniform(0, 0.15))
    kind = rng.choice(["noise", "stripes", "checks", "wood", "speckle", "photograph", "tinted"])
    if kind in ("photograph", "tinted"):
        crop = _crop(rng, _photograph(str(rng.choice(PHOTOGRAPHS))))
        return (
            crop
            if kind == "photograph"
            else _painted(rng, np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) / 255.0, np.float64))
        )
    return _painted(rng, _PATTERNS[kind](rng))


def tiled(picture: Picture, times: int) -> Picture:
    """The picture repeated `times` x `times`, at the same size."""
    return np.asarray(cv2.resize(np.tile(picture, (times, times, 1)), (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _painted(rng: Rng, share: NDArray[np.floating]) -> Picture:
    """Between two colours by `share` (h, w) in [0, 1]."""
    low, high = random_colour(rng), random_colour(rng)
    # Most real surfaces are one colour and a shade of it.
    if rng.random() < 0.6:
        high = np.clip(low * rng.uniform(0.5, 1.5) + rng.normal(0, 0.05, 3), 0, 1)
    mixed = low + (high - low) * share[..., None]
    return np.asarray(mixed * 255, np.uint8)


def _noise(rng: Rng, roughness: float | None = None) -> NDArray[np.float64]:
    """(SIDE, SIDE) in [0, 1]: octaves of smooth noise."""
    roughness = rng.uniform(0.3, 0.9) if roughness is None else roughness
    total = np.zeros((SIDE, SIDE))
    for octave in range(1, 7):
        cells = rng.normal(0, 1, (2**octave, 2**octave))
        total += roughness**octave * cv2.resize(cells, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray((total - total.min()) / (np.ptp(total) + 1e-9))


def _stripes(rng: Rng) -> NDArray[np.float64]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.uniform(0, np.pi)
    wave = np.sin(2 * np.pi * rng.uniform(2, 14) * (x * np.cos(angle) + y * np.sin(angle)) + 2 * _noise(rng))
    return np.asarray(np.clip(wave * rng.uniform(0.5, 5), -1, 1) / 2 + 0.5)


def _checks(rng: Rng) -> NDArray[np.float64]:
    count = int(rng.integers(2, 10))
    y, x = np.mgrid[:SIDE, :SIDE] * count // SIDE
    return np.asarray(rng.random((count, count))[y, x] if rng.random() < 0.4 else (x + y) % 2, np.float64)


def _wood(rng: Rng) -> NDArray[np.float64]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    planks = np.floor(y * rng.integers(1, 8))
    grain = np.sin(40 * (y + 0.05 * np.sin(3 * x + planks)) + 6 * _noise(rng, 0.5))
    return np.asarray(np.clip(0.5 + 0.2 * grain + 0.3 * rng.normal(0, 1, 9)[planks.astype(int)], 0, 1))


def _speckle(rng: Rng) -> NDArray[np.float64]:
    spots = (rng.random((SIDE, SIDE)) < rng.uniform(0.005, 0.2)).astype(np.float64)
    return np.asarray(np.clip(cv2.GaussianBlur(spots, (0, 0), rng.uniform(0.5, 2)) * 4, 0, 1))


_PATTERNS = {"noise": _noise, "stripes": _stripes, "checks": _checks, "wood": _wood, "speckle": _speckle}


@cache
def _photograph(name: str) -> Picture:
    from skimage import data

    picture = np.asarray(getattr(data, name)())
    return np.asarray(picture if picture.ndim == 3 else np.stack([picture] * 3, -1), np.uint8)[..., :3]


def _crop(rng: Rng, picture: Picture) -> Picture:
    side = int(min(picture.shape[:2]) * rng.uniform(0.3, 1))
    y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    return np.asarray(cv2.resize(picture[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA))
