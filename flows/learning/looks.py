"""Other looks of a training clip: what another camera, another renderer or other paint would make of the same scene.

Where things are and how they move stays, and so do the answers; what generated worlds have in common, such as bright
things on plain tables, stops being a clue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.nano.inputs import Pixels
from flows.scenes.textures import Rng


def other_look(rng: Rng, pixels: Pixels, classes: NDArray[np.uint8], n_classes: int) -> Pixels:
    """The clip (T, H, W, 3) with some of the changes below, each the same in all of its frames.

    Args:
        rng: everything is drawn from it.
        pixels: of the clip.
        classes: (T, H, W) what each pixel shows, below `n_classes`.
        n_classes: how many there are.
    """
    if rng.random() < 0.4:
        pixels = _repainted(rng, pixels, classes, n_classes)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    pixels = _toned(rng, pixels)
    for chance, change in _CHANGES:
        if rng.random() < chance:
            pixels = change(rng, pixels)
    return pixels


def _toned(rng: Rng, pixels: Pixels) -> Pixels:
    """Under one tone curve of each channel."""
    level = np.arange(256) / 255
    curves = [np.clip(rng.uniform(0.75, 1.25) * level ** np.exp(rng.normal(0, 0.2)), 0, 1) for _ in range(3)]
    tones = (np.array(curves) * 255).astype(np.uint8)
    return np.stack([tones[channel][pixels[..., channel]] for channel in range(3)], axis=-1)


def _repainted(rng: Rng, pixels: Pixels, classes: NDArray[np.uint8], n_classes: int) -> Pixels:
    """Each class in colours of its own: exchanged, duller or brighter, or moved to those of another class."""
    values = pixels.astype(np.float32)
    means = [values[classes == k].mean(0) if (classes == k).any() else None for k in range(n_classes)]
    out = values.copy()
    for k, mean in enumerate(means):
        if mean is None or rng.random() < 0.3:
            continue
        painted = values[..., rng.permutation(3)] if rng.random() < 0.5 else values
        painted = _with_colour(painted, rng.uniform(0, 1.3)) * rng.uniform(0.6, 1.4, 3).astype(np.float32)
        other = means[int(rng.integers(n_classes))]
        if other is not None and rng.random() < 0.3:
            painted = painted + np.float32(rng.uniform(0.3, 1)) * (other - mean)
        # Edges are mixed pixels: a hard border would tell the classes apart.
        share = np.stack([cv2.GaussianBlur((each == k).astype(np.float32), (0, 0), 0.6) for each in classes])
        out += share[..., None] * (painted - values)
    return _bytes(out)


def _dull(rng: Rng, pixels: Pixels) -> Pixels:
    return _bytes(_with_colour(pixels, rng.uniform(0, 0.8)))


def _inverted(_rng: Rng, pixels: Pixels) -> Pixels:
    return np.asarray(255 - pixels, np.uint8)


def _unevenly_lit(rng: Rng, pixels: Pixels) -> Pixels:
    cells = rng.normal(0, rng.uniform(0.1, 0.3), (4, 4)).astype(np.float32)
    light = np.exp(cv2.resize(cells, pixels.shape[2:0:-1], interpolation=cv2.INTER_CUBIC))
    return _bytes(pixels * light[..., None])


def _flickering(rng: Rng, pixels: Pixels) -> Pixels:
    gain = np.exp(rng.normal(0, rng.uniform(0.01, 0.06), len(pixels))).astype(np.float32)
    return _bytes(pixels * gain[:, None, None, None])


def _coarse(rng: Rng, pixels: Pixels) -> Pixels:
    """As if enlarged from a smaller picture."""
    height, width = pixels.shape[1:3]
    small = max(int(width * rng.uniform(0.3, 0.8)), 1), max(int(height * rng.uniform(0.3, 0.8)), 1)
    how = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST
    shrunk = [cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in pixels]
    return np.stack([np.asarray(cv2.resize(each, (width, height), interpolation=how), np.uint8) for each in shrunk])


def _noisy(rng: Rng, pixels: Pixels) -> Pixels:
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(1, 10))
    return _bytes(pixels + noise)


_CHANGES: tuple[tuple[float, Callable[[Rng, Pixels], Pixels]], ...] = (
    (0.3, _dull),
    (0.05, _inverted),
    (0.25, _unevenly_lit),
    (0.15, _flickering),
    (0.15, _coarse),
    (0.2, _noisy),
)
"""How often, and what."""


def _with_colour(values: NDArray[Any], share: float) -> NDArray[np.float32]:
    """Values (..., 3) with `share` of their distance from grey."""
    grey = values.mean(-1, keepdims=True, dtype=np.float32)
    return np.asarray(grey + np.float32(share) * (values - grey), np.float32)


def _bytes(values: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
