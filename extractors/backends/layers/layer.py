"""A motion layer: points of one frame, and the picture around them, followed as a whole.

All positions are (x, y) pixels of the images handed in, with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.layers.motions import IDENTITY, Floats, apply, compose, fit_update, translation
from extractors.backends.layers.rule import Image, LayerRule, odd
from extractors.geometry import sample_indices

CLEAN, MOST_BLUR = 2.0, 2.0
"""What most of a picture that rests differs by in a clean clip, grey levels; widest blur of a noisy one, pixels."""

_MEAN_COLOUR: Floats = np.full(3, 1 / 3)


def sample(image: NDArray[Any], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Bilinear values (N, C) or (N,) of `image` at `points` (N, 2); the border is repeated outside."""
    return _sampled(image, _map(points))


def _map(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """`points` (N, 2) as OpenCV takes them, (N, 1, 2)."""
    return np.ascontiguousarray(points[:, None], dtype=np.float32)


def _sampled(image: NDArray[Any], where: NDArray[np.float32]) -> NDArray[np.float32]:
    # remap takes at most 32767 rows, far more than the queries of one frame
    # None, not an empty array: OpenCV 5 takes the latter for a second map and reads rubbish
    values = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(values[:, 0], dtype=np.float32)


def match(
    first: Image, second: Image, points: Floats, guess: Floats, *, levels: int, rule: LayerRule
) -> tuple[Floats, Floats]:
    """Pyramidal Lucas-Kanade in colour, from `first` to `second` and back.

    Returns:
        positions (N, 2) in `second`, and the forward-backward error (N,) in pixels, infinite where the match failed.
    """
    start = np.ascontiguousarray(points[:, None], dtype=np.float32)
    options: dict[str, Any] = {
        "winSize": (max(odd(rule.window), 3),) * 2,
        "maxLevel": levels,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.02),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
        "minEigThreshold": 1e-4,
    }
    end, ok_end, _ = cv2.calcOpticalFlowPyrLK(
        first, second, start, np.ascontiguousarray(guess[:, None], dtype=np.float32), **options
    )
    home, ok_back, _ = cv2.calcOpticalFlowPyrLK(second, first, end, start.copy(), **options)
    off = (home - start)[:, 0].astype(np.float64)
    error: Floats = np.hypot(off[:, 0], off[:, 1])
    error[(ok_end[:, 0] == 0) | (ok_back[:, 0] == 0)] = np.inf
    return end[:, 0].astype(np.float64), error


class _Fit(NamedTuple):
    """A motion of a layer to one frame, how badly it fits (grey levels), and the layer's picture taken from there."""

    motion: Floats
    score: float
    warped: Image


class Layer:
    """Points of one reference frame, and the picture around them, followed as a whole."""

    def __init__(
        self, images: Sequence[Image], frame: int, points: Floats, rule: LayerRule, *, attempts: int = 3
    ) -> None:
        """`images` (h, w, 3) RGB of one size; `points` (N, 2) in image `frame`; `rule` in pixels."""
        self._images, self._rule, self._attempts = images, rule, attempts
        self.frame, self.points = frame, points
        height, width = images[frame].shape[:2]
        self._extent = np.array([width, height]) - 0.5
        border = round(rule.border)
        low = np.maximum(np.floor(points.min(axis=0)) - border, 0).astype(int)
        high = np.minimum(np.ceil(points.max(axis=0)) + border, [width - 1, height - 1]).astype(int)
        self._corner = low
        self._size = (int(high[0] - low[0] + 1), int(high[1] - low[1] + 1))
        self._template = np.ascontiguousarray(images[frame][low[1] : high[1] + 1, low[0] : high[0] + 1])
        self._inside = points - low
        self._where = _map(self._inside)
        self._patch = (odd(rule.patch),) * 2
        # A point in a crowd counts for less: what matters is the area that the points stand for.
        apart = squares_apart(points)
        self.weights: Floats = 1.0 / np.exp(-4 * apart / rule.near**2).sum(axis=1)
        self._total_weight = float(self.weights.sum())

    def follow(self, order: Sequence[int]) -> Floats:
        """Motions (len(order), 2, 3) from the reference frame to the frames `order`, which begins with it."""
        fit, velocity = _Fit(IDENTITY.copy(), 0.0, self._template), np.zeros(2)
        motions = [fit.motion]
        trust = np.ones(len(self.points))
        for before, frame in itertools.pairwise(order):
            place, previous = apply(fit.motion, self.points), fit.warped
            fit = self._fit(frame, fit.motion, previous)
            if fit.score < self._rule.rest:
                velocity = np.zeros(2)
            else:
                fit = self._register(frame, self._predict(before, frame, fit, velocity, trust, previous), previous)
                trust = np.exp(-self._difference(fit.warped, self._template, fit.motion) / self._rule.noise)
                velocity = apply(fit.motion, self.points).mean(axis=0) - place.mean(axis=0)
            motions.append(fit.motion)
        return np.stack(motions)

    def differences(self, frame: int, motion: Floats) -> Floats:
        """(N,) colour difference of each point's surroundings in `frame` under `motion`, grey levels, cut off.

        The cut is the value for points outside the image as well.
        """
        return self._difference(self._warp(frame, motion), self._template, motion)

    def hidden(self, frame: int, motion: Floats) -> Floats:
        """(N,) colour difference of each point itself, forgiving `slack`: grey levels, cut off, outside at the cut.

        The point's colour is compared with the range of colours around where it should be, so that an edge that is
        placed a pixel off does not hide the points beside it.
        """
        warped = cv2.blur(self._warp(frame, motion), (3, 3))
        kernel = np.ones((2 * max(round(self._rule.slack), 1) + 1,) * 2, dtype=np.uint8)
        colour = sample(cv2.blur(self._template, (3, 3)), self._inside)
        low, high = sample(cv2.erode(warped, kernel), self._inside), sample(cv2.dilate(warped, kernel), self._inside)
        difference = np.maximum(np.maximum(low - colour, colour - high), 0.0).mean(axis=-1).astype(np.float64)
        return self._capped(difference, motion)

    def _capped(self, difference: Floats, motion: Floats) -> Floats:
        """`difference` (N,) up to the cut, and at the cut where `motion` carries the point out of the image."""
        found = np.minimum(difference, self._rule.cut)
        found[self._outside(motion)] = self._rule.cut
        return found

    def _outside(self, motion: Floats) -> NDArray[np.bool_]:
        """(N,) True where `motion` carries a point out of the image."""
        place = apply(motion, self.points)
        beyond = (place < -0.5) | (place > self._extent)
        outside: NDArray[np.bool_] = beyond[:, 0] | beyond[:, 1]
        return outside

    def _warp(self, frame: int, motion: Floats) -> Image:
        if np.array_equal(motion, IDENTITY):
            (x, y), (columns, rows) = self._corner, self._size
            return self._images[frame][y : y + rows, x : x + columns]
        where = compose(motion, translation(self._corner))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(self._images[frame], where, self._size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, dtype=np.uint8)

    def _difference(self, warped: Image, reference: Image, motion: Floats) -> Floats:
        return self._capped(self._unlike(warped, reference), motion)

    def _unlike(self, warped: Image, reference: Image) -> Floats:
        """(N,) mean colour difference around each point, grey levels."""
        blurred = cv2.blur(cv2.absdiff(warped, reference), self._patch)
        return _sampled(blurred, self._where) @ _MEAN_COLOUR

    def _fit(self, frame: int, motion: Floats, previous: Image) -> _Fit:
        # The frame before keeps the score meaningful when light or aspect have changed since the reference.
        warped, cut = self._warp(frame, motion), self._rule.cut
        difference = np.minimum(self._unlike(warped, self._template), cut)
        difference += np.minimum(self._unlike(warped, previous), cut)
        difference[self._outside(motion)] = 2.0 * cut
        return _Fit(motion, float(self.weights @ difference) / (2.0 * self._total_weight), warped)

    def _predict(self, before: int, frame: int, rest: _Fit, velocity: Floats, trust: Floats, previous: Image) -> _Fit:
        """The best of: `rest`, constant velocity, and what the points' own flow says from either start."""
        rule, fits = self._rule, [rest]
        if velocity.any():
            fits.append(self._fit(frame, compose(translation(velocity), rest.motion), previous))
        if min(fit.score for fit in fits) > rule.search:
            place = apply(rest.motion, self.points)
            starts = [place, place + velocity] if np.abs(velocity).max() > 1.0 else [place]
            for start in starts:
                end, loop = self._flow(before, frame, place, start)
                weights = self.weights * trust * np.exp(-((loop / rule.loop) ** 2))
                end = np.where(np.isfinite(loop)[:, None], end, place)
                step = fit_update(place, end, weights, fit_px=rule.fit, affinity=rule.affinity)
                fits.append(self._fit(frame, compose(step, rest.motion), previous))
        # Rest wins ties: an untextured layer must not wander.
        return min(fits, key=lambda fit: fit.score - 0.6 * rule.bias * (fit is rest))

    def _flow(self, before: int, frame: int, place: Floats, start: Floats) -> tuple[Floats, Floats]:
        # A window around the layer is enough for its flow; a pyramid of the whole frame would cost more than the rest.
        ends = np.concatenate([place, start])
        reach = round(self._rule.reach)
        low = np.clip(np.floor(ends.min(axis=0)) - reach, 0, np.maximum(self._extent - 2 * reach, 0)).astype(int)
        high = np.maximum(np.ceil(ends.max(axis=0)) + reach, low + 2 * reach).astype(int)
        cut = (slice(low[1], high[1]), slice(low[0], high[0]))
        end, loop = match(
            self._images[before][cut],
            self._images[frame][cut],
            place - low,
            start - low,
            levels=3,
            rule=self._rule,
        )
        return end + low, loop

    def _register(self, frame: int, fit: _Fit, previous: Image) -> _Fit:
        """`fit` corrected against the reference frame and, weaker, the frame before."""
        rule = self._rule
        # What is hidden is carried on, not registered: nothing of it is seen.
        for attempt in range(self._attempts if fit.score < 0.9 * rule.cut else 0):
            levels = 2 if attempt == 0 else 1
            blurred = np.asarray(cv2.blur(fit.warped, self._patch), np.uint8)
            matches = [self._matches(each, fit.warped, blurred, levels) for each in (self._template, previous)]
            start = np.concatenate([self._inside, self._inside]) + self._corner
            end = np.concatenate([place for place, _ in matches]) + self._corner
            weights = np.concatenate([matches[0][1], 0.3 * matches[1][1]])
            update = fit_update(start, end, weights, fit_px=rule.fit, affinity=rule.affinity)
            worse, fit = fit, self._fit(frame, compose(fit.motion, update), previous)
            if fit.score > worse.score + 0.05:
                return worse
            if fit.score >= worse.score or np.abs(apply(update - IDENTITY, self.points)).max() < 0.1:
                break
        return fit

    def _matches(self, reference: Image, warped: Image, blurred: Image, levels: int) -> tuple[Floats, Floats]:
        rule = self._rule
        end, loop = match(reference, warped, self._inside, self._inside, levels=levels, rule=rule)
        lost = ~np.isfinite(loop)
        end[lost] = self._inside[lost]
        colour = _sampled(cv2.blur(reference, self._patch), self._where)
        unlike = np.abs(sample(blurred, end) - colour) @ _MEAN_COLOUR
        return end, self.weights * np.exp(-np.square(unlike / rule.noise) - np.square(loop / rule.loop))


def squares_apart(points: Floats) -> Floats:
    """(N, N) squared distances of `points` (N, 2) from each other."""
    x, y = (np.square(axis[:, None] - axis[None]) for axis in points.T)
    return np.asarray(x + y)


def follow_both_ways(layer: Layer, n_frames: int) -> Floats:
    """Motions (T, 2, 3) of `layer` from its own frame to every frame of the clip."""
    forward = layer.follow(range(layer.frame, n_frames))
    backward = layer.follow(range(layer.frame, -1, -1))
    return np.concatenate([backward[:0:-1], forward])


def noise_of(images: Sequence[Image], rule: LayerRule) -> float:
    """What most of the picture differs by from image to image, grey levels: noise, where the camera stands still."""
    middle = len(images) // 2
    whole = whole_picture(images, middle, rule.at(images[middle]))
    shown = sample_indices(len(images), rule.judged)
    return float(np.median([np.median(whole.differences(int(t), IDENTITY)) for t in shown]))


def without_noise(images: Sequence[Image], noise: float) -> list[Image]:
    """The images, blurred until `noise`, grey levels, is that of clean ones; as they are where it is.

    White noise is divided by 2 sqrt(pi) times the deviation of a normal window.
    """
    if noise <= CLEAN:
        return list(images)
    wide = min(noise / CLEAN / (2 * np.sqrt(np.pi)), MOST_BLUR)
    return [np.asarray(cv2.GaussianBlur(image, (0, 0), wide), np.uint8) for image in images]


def whole_picture(images: Sequence[Image], frame: int, rule: LayerRule) -> Layer:
    """What fills most of the picture, as one layer."""
    height, width = images[frame].shape[:2]
    x, y = np.meshgrid((np.arange(16) + 0.5) * width / 16 - 0.5, (np.arange(16) + 0.5) * height / 16 - 0.5)
    return Layer(images, frame, np.stack([x.ravel(), y.ravel()], axis=1), rule)
