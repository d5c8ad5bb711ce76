"""Affine motion layers: which parts of a clip move together, and how, from one reference frame.

A layer is a set of points of the reference frame that one affine motion per frame carries along (Wang and Adelson,
"Representing Moving Images with Layers", 1994). Small untextured objects, which give a single Lucas-Kanade window
nothing to hold on to, are followed well as a whole: every point of the layer votes, outliers are left out, and the
motion is registered against the reference frame itself, so that errors do not add up over time.

All positions are (x, y) pixels of the images handed in, with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import sample_indices
from extractors.side_by_side import map_side_by_side

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

IDENTITY: Floats = np.eye(2, 3)

CLEAN, MOST_BLUR = 2.0, 2.0
"""What most of a picture that rests differs by in a clean clip, grey levels; widest blur of a noisy one, pixels."""

_MEAN_COLOUR: Floats = np.full(3, 1 / 3)


@dataclass(frozen=True, slots=True)
class LayerRule:
    """Thresholds of the layers; grey levels are of 255.

    Lengths are shares of the frame's side (the root of its area), and pixels once `at` has converted them; they were
    set on simulated episodes of 256 x 256. Nothing is counted in frames: a layer is judged by where it is, not by how
    fast it got there.

    Attributes:
        window: side of the Lucas-Kanade window.
        patch: side of the box over which colour differences are averaged.
        loop: forward-backward error at which a Lucas-Kanade match has lost 1/e of its weight.
        fit: distance from the layer's motion at which a match starts to count as an outlier.
        border: how far around a layer's points its picture is registered.
        reach: how far around a layer its next position is searched.
        slack: how far off a visible point may be placed.
        stir: a layer that never strays farther from the background is the background.
        near: distance over which points share their evidence, and side of the squares that measure a region.
        cut: colour difference above which a point counts as hidden or wrong, whatever the amount, grey levels.
        noise: colour difference that a match under changing light has, grey levels.
        poor: colour difference of a match that is hardly one, and over which points share their evidence, grey levels.
        explained: mean colour difference below which the background explains a point, and lead of the best layer over
            the next at which a point is clear, grey levels.
        search: look for new motion (not just go on as before) where the layer differs by more, grey levels.
        rest: a layer that differs by less has not moved since the frame before, grey levels.
        lead: how much better the background fits where it is seen, grey levels.
        doubt: advantage of the layer that a point has already, and of that of its clear neighbours, grey levels.
        bias: advantage of the background, and of rest, grey levels.
        price: what a further layer must save, in grey levels x independent points.
        affinity: standard deviation of one update's change of scale, rotation and shear (1 is 100 %).
        hiding: factor on the cost of moving layers when points are dealt out.
        cells: sizes of the regions tried, one round each, in squares of `near`.
        regions: most regions tried in one round.
        points, draft_points: points of a layer, and of one that is only tried, that are matched.
        judged: most frames by which layers are compared, so that the cost of a frame does not grow with the clip.
    """

    window: float = 0.04296875
    patch: float = 0.01953125
    loop: float = 0.002734375
    fit: float = 0.0078125
    border: float = 0.046875
    reach: float = 0.15625
    slack: float = 0.00390625
    stir: float = 0.005859375
    near: float = 0.0234375
    cut: float = 30.0
    noise: float = 15.0
    poor: float = 12.0
    explained: float = 2.0
    search: float = 3.0
    rest: float = 1.0
    lead: float = 6.0
    doubt: float = 4.0
    bias: float = 0.5
    price: float = 10.0
    affinity: float = 0.06
    hiding: float = 0.87
    cells: tuple[int, ...] = (40, 12)
    regions: int = 5
    points: int = 30
    draft_points: int = 16
    judged: int = 60

    def at(self, image: Image) -> LayerRule:
        """The rule with lengths in pixels of `image` (h, w, 3)."""
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        return replace(self, **{name: getattr(self, name) * side for name in LENGTHS})


LENGTHS = ("window", "patch", "loop", "fit", "border", "reach", "slack", "stir", "near")
"""The rule's fields that `LayerRule.at` converts."""


def _odd(length: float) -> int:
    """The odd number of pixels, 1 or more, nearest to `length`."""
    return 2 * max(round((length - 1) / 2), 0) + 1


def apply(motion: Floats, points: NDArray[np.floating]) -> Floats:
    """`points` (N, 2) carried by `motion` (2, 3)."""
    moved: Floats = points @ motion[:, :2].T + motion[:, 2]
    return moved


def compose(after: Floats, first: Floats) -> Floats:
    """The motion (2, 3) that applies `first`, then `after`."""
    return np.concatenate([after[:, :2] @ first[:, :2], after[:, :2] @ first[:, 2:] + after[:, 2:]], axis=1)


def translation(shift: NDArray[np.floating]) -> Floats:
    """The motion (2, 3) that adds `shift` (2,)."""
    return np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])


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
        "winSize": (max(_odd(rule.window), 3),) * 2,
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


def fit_update(
    start: Floats, end: Floats, weights: Floats, *, fit_px: float, affinity: float, spread_px: float = 1.5
) -> Floats:
    """The affine motion (2, 3) that carries `start` to `end` (N, 2), robustly.

    Iteratively reweighted least squares with Geman-McClure weights of scale `fit_px`, begun at the weighted median
    translation. The linear part is drawn to the identity by a Gaussian prior of standard deviation `affinity`
    against matches of `spread_px`, so that few or crowded points give a translation rather than nonsense.
    """
    if weights.sum() < 1e-3:
        return IDENTITY.copy()
    moved = end - start
    # Moments of all matches in one product a round, and 2 x 2 systems by hand: this is called thousands of times a
    # clip, and on a few dozen points calls cost more than arithmetic. Around the mean, so that moments lose no digits.
    around = start.mean(axis=0)
    matched = np.empty((len(start), 5))
    matched[:, :2], matched[:, 2], matched[:, 3:] = start - around, 1.0, moved
    shift_x, shift_y = (_weighted_median(moved[:, axis], weights) for axis in (0, 1))
    # Rows: what a match's place (x, y, 1) adds to x and to y.
    fitted = np.array([[0.0, 0.0, shift_x], [0.0, 0.0, shift_y]])
    stiff, loose = 1.0 / affinity**2, 1.0 / spread_px**2
    for _ in range(5):
        error = matched[:, 3:] - matched[:, :3] @ fitted.T
        off = np.square(error[:, 0]) + np.square(error[:, 1])
        robust = weights / np.square(1.0 + off / fit_px**2) + 1e-9
        (xx, xy, x, xu, xv), (_, yy, y, yu, yv), (_, _, total, u, v) = (
            (matched[:, :3] * robust[:, None]).T @ matched
        ).tolist()
        x, y, u, v = x / total, y / total, u / total, v / total
        xx, xy, yy = (
            loose * (xx - total * x * x) + stiff,
            loose * (xy - total * x * y),
            loose * (yy - total * y * y) + stiff,
        )
        xu, xv, yu, yv = (
            loose * (product - total * place * move)
            for product, place, move in ((xu, x, u), (xv, x, v), (yu, y, u), (yv, y, v))
        )
        scale = 1.0 / (xx * yy - xy * xy)
        ux, uy = scale * (yy * xu - xy * yu), scale * (xx * yu - xy * xu)
        vx, vy = scale * (yy * xv - xy * yv), scale * (xx * yv - xy * xv)
        fitted = np.array([[ux, uy, u - ux * x - uy * y], [vx, vy, v - vx * x - vy * y]])
    update = fitted.copy()
    update[:, 2] -= fitted[:, :2] @ around
    update[:, :2] += np.eye(2)
    return update


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
        self._patch = (_odd(rule.patch),) * 2
        # A point in a crowd counts for less: what matters is the area that the points stand for.
        apart = _squares_apart(points)
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


def _squares_apart(points: Floats) -> Floats:
    """(N, N) squared distances of `points` (N, 2) from each other."""
    x, y = (np.square(axis[:, None] - axis[None]) for axis in points.T)
    return np.asarray(x + y)


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2.0)])


@dataclass(frozen=True, slots=True, eq=False)
class Assigned:
    """Points and the layers that carry them.

    Attributes:
        motions: (L, T, 2, 3) float64, each layer's motion from the reference frame to every frame; 0 is the background.
        layer: (N,) int64, each point's layer.
    """

    motions: Floats
    layer: NDArray[np.int64]


def assign_layers(
    images: Sequence[Image],
    frame: int,
    queries: Floats,
    rule: LayerRule,
    *,
    still: bool,
    supported: bool = True,
) -> Assigned:
    """Finds the layers that explain `queries` (N, 2) of image `frame` best over all images; `rule` in pixels.

    Where the camera stands `still` what fills most of the picture rests exactly; else it is followed too.

    Candidate layers (the background, and regions of like colour at several scales) are followed through the clip;
    greedy selection keeps those that lower the colour difference at the points by more than a layer costs; each
    kept layer is followed again with all points that it won. Unless `supported`, `queries` are all that is looked at.
    """
    if still:
        background = np.broadcast_to(IDENTITY, (len(images), 2, 3)).copy()
    else:
        background = follow_both_ways(_everything(images, frame, rule), len(images))
    points = np.concatenate([queries, _support(images, frame, queries, background, rule)]) if supported else queries
    judge = _Judge(images, frame, points, rule)
    # Kept for all layers: made again for each of them, they were a tenth of the work.
    behind = [Backdrop(images, frame, t, background[t], rule) for t in judge.frames]
    motions, costs = [background], [judge.cost(background) - rule.bias]
    kept, layer = [0], np.zeros(len(points), dtype=np.int64)
    at_rest = np.zeros(len(points), dtype=np.bool_)

    def follow(regions: Sequence[NDArray[np.intp]], most: int, attempts: int) -> None:
        def one(members: NDArray[np.intp]) -> tuple[Floats, Floats] | None:
            chosen = points[members[_thinned(points[members], most)]]
            followed = follow_both_ways(Layer(images, frame, chosen, rule, attempts=attempts), len(images))
            apart = np.linalg.norm(_carried(followed, chosen) - _carried(background, chosen), axis=-1)
            if np.median(apart, axis=1).max() < rule.stir:
                return None
            return followed, judge.cost(followed, behind)

        results = map_side_by_side(one, regions, at_once=cv2.getNumThreads())
        for members, found in zip(regions, results, strict=True):
            if found is None:
                at_rest[members] = True
            else:
                motions.append(found[0])
                costs.append(found[1])

    for cells in rule.cells:
        loose = np.flatnonzero((np.min([costs[index] for index in kept], axis=0) > rule.explained) & ~at_rest)
        follow(_regions(points, judge.colours, loose, cells, rule), rule.draft_points, 2)
        before = layer
        kept, layer = judge.select(np.stack(costs))
        changed = [index for index in kept[1:] if not np.array_equal(layer == index, before == index)]
        follow([np.flatnonzero(layer == index) for index in changed], rule.points, 3)
        kept, layer = judge.select(np.stack(costs))
    number = np.full(len(motions), -1)
    number[kept] = np.arange(len(kept))
    return Assigned(np.stack([motions[index] for index in kept]), number[layer[: len(queries)]])


def _carried(motions: Floats, points: Floats) -> Floats:
    """(T, N, 2) positions of `points` (N, 2) under `motions` (T, 2, 3)."""
    turned: Floats = np.einsum("tij,nj->tni", motions[:, :, :2], points) + motions[:, None, :, 2]
    return turned


def follow_both_ways(layer: Layer, n_frames: int) -> Floats:
    """Motions (T, 2, 3) of `layer` from its own frame to every frame of the clip."""
    forward = layer.follow(range(layer.frame, n_frames))
    backward = layer.follow(range(layer.frame, -1, -1))
    return np.concatenate([backward[:0:-1], forward])


def noise_of(images: Sequence[Image], rule: LayerRule) -> float:
    """What most of the picture differs by from image to image, grey levels: noise, where the camera stands still."""
    middle = len(images) // 2
    everything = _everything(images, middle, rule.at(images[middle]))
    shown = sample_indices(len(images), rule.judged)
    return float(np.median([np.median(everything.differences(int(t), IDENTITY)) for t in shown]))


def without_noise(images: Sequence[Image], noise: float) -> list[Image]:
    """The images, blurred until `noise`, grey levels, is that of clean ones; as they are where it is.

    White noise is divided by 2 sqrt(pi) times the deviation of a normal window.
    """
    if noise <= CLEAN:
        return list(images)
    wide = min(noise / CLEAN / (2 * np.sqrt(np.pi)), MOST_BLUR)
    return [np.asarray(cv2.GaussianBlur(image, (0, 0), wide), np.uint8) for image in images]


def _everything(images: Sequence[Image], frame: int, rule: LayerRule) -> Layer:
    """What fills most of the picture, as one layer."""
    height, width = images[frame].shape[:2]
    x, y = np.meshgrid((np.arange(16) + 0.5) * width / 16 - 0.5, (np.arange(16) + 0.5) * height / 16 - 0.5)
    return Layer(images, frame, np.stack([x.ravel(), y.ravel()], axis=1), rule)


def _support(images: Sequence[Image], frame: int, queries: Floats, background: Floats, rule: LayerRule) -> Floats:
    """(M, 2) further points around the queries that the background does not explain.

    Without them points beside a moving thing, which it covers for a while, would be all that is known of it, and go
    with it.
    """
    loose = queries[_Judge(images, frame, queries, rule).cost(background) > rule.explained]
    height, width = images[frame].shape[:2]
    x, y = np.meshgrid(np.arange(rule.near / 3, width, rule.near), np.arange(rule.near / 3, height, rule.near))
    lattice = np.stack([x.ravel(), y.ravel()], axis=1)
    smooth = cv2.blur(images[frame], (3, 3))
    colours = sample(smooth, lattice)
    fitting = np.zeros(len(lattice), dtype=np.bool_)
    for query, colour in zip(loose, sample(smooth, loose) if len(loose) else (), strict=True):
        close = np.square(lattice - query).sum(axis=1) < (3 * rule.near) ** 2
        fitting |= close & (np.abs(colours - colour).mean(axis=1) < rule.noise)
    lattice = lattice[fitting]
    if not len(lattice):
        return lattice
    return lattice[_Judge(images, frame, lattice, rule).cost(background) > rule.explained]


class Backdrop:
    """The background of one frame, and where it is seen: nothing else can be at such a place in such a frame."""

    def __init__(self, images: Sequence[Image], reference: int, frame: int, motion: Floats, rule: LayerRule) -> None:
        """`motion` (2, 3) carries image `reference`'s background to image `frame`."""
        height, width = images[frame].shape[:2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        back: NDArray[Any] = images[frame]
        if not np.array_equal(motion, IDENTITY):
            back = cv2.warpAffine(back, motion, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        self._inverse = cv2.invertAffineTransform(motion).astype(np.float64)
        grey = cv2.transform(cv2.absdiff(back, images[reference]), np.full((1, 3), 1 / 3))
        self._residual = cv2.blur(grey, (_odd(rule.patch),) * 2)
        self._corner, self._rule = np.array([width - 1, height - 1]), rule

    def seen(self, points: Floats, motion: Floats, difference: Floats) -> NDArray[np.bool_]:
        """(N,) True where `motion` puts a point at a place that shows the background.

        That is: the background fits there better than the point itself (`difference`, grey levels) by a clear lead.
        """
        origin = apply(self._inverse, apply(motion, points))
        inside = np.all((origin >= 0) & (origin <= self._corner), axis=1)
        moved = np.linalg.norm(origin - points, axis=1) > self._rule.stir
        seen: NDArray[np.bool_] = inside & moved & (sample(self._residual, origin) < difference - self._rule.lead)
        return seen


class _Judge:
    """Says how well a motion explains each of a set of points, and picks layers by it."""

    def __init__(self, images: Sequence[Image], frame: int, points: Floats, rule: LayerRule) -> None:
        self._layer = Layer(images, frame, points, replace(rule, border=rule.patch))
        self._rule = rule
        self.frames: list[int] = sample_indices(len(images), rule.judged).tolist()
        self.colours = sample(cv2.blur(images[frame], (3, 3)), points).astype(np.float64)
        self._apart = _squares_apart(points)
        unlike = sum(np.abs(channel[:, None] - channel[None]) for channel in self.colours.T) / 3
        self._closeness = self._apart / rule.near**2 + np.square(unlike / rule.poor)
        self._weights = self._layer.weights
        # Points that are hidden whenever it matters follow their like-coloured neighbours.
        alike = self._weights * np.exp(-self._closeness / 2)
        self._smooth = alike / alike.sum(axis=1, keepdims=True)

    @cached_property
    def _nearness(self) -> Floats:
        # Only those who pick layers need it.
        return np.asarray(self._weights * np.exp(-self._closeness / 8) + 1e-12 / (1.0 + self._apart))

    def cost(self, motions: Floats, behind: Sequence[Backdrop] = ()) -> Floats:
        """(N,) mean colour difference over `frames`, smoothed over neighbours of like colour.

        Where the background is seen (`behind`, one for each of `frames`), a layer in front of it is not.
        """
        total = np.zeros(len(self._weights))
        for place, frame in enumerate(self.frames):
            difference = self._layer.differences(frame, motions[frame])
            if behind:
                difference[behind[place].seen(self._layer.points, motions[frame], difference)] = self._rule.cut
            # A poor match counts nearly as none: what sweeps over a point must not earn by resembling it a little.
            total += self._rule.cut * (1.0 - np.exp(-((difference / self._rule.poor) ** 2)))
        return np.asarray(self._smooth @ (total / len(self.frames)))

    def select(self, costs: Floats) -> tuple[list[int], NDArray[np.int64]]:
        """The layers worth their price out of `costs` (L, N), the background first, and each point's layer (N,)."""
        kept = [0]
        best, winner = costs[0].copy(), np.zeros(costs.shape[1], dtype=np.int64)
        while True:
            margin = np.where(winner == 0, 0.0, self._rule.doubt)
            saved = np.maximum(best - costs - margin, 0.0)
            choice = int(np.argmax(saved @ self._weights))
            if saved[choice] @ self._weights <= self._rule.price:
                break
            kept.append(choice)
            won = saved[choice] > 0.0
            best, winner = np.where(won, costs[choice], best), np.where(won, choice, winner)
        winner = self._settled(costs, kept)
        return [0] + [index for index in kept[1:] if np.any(winner == index)], winner

    def _settled(self, costs: Floats, kept: list[int]) -> NDArray[np.int64]:
        """Each point's layer (N,) among `kept`, with the layers of the clear points around it as prior."""
        numbers = np.asarray(kept)
        among = costs[numbers]
        # A point hidden under every layer costs each the same; it is then rather carried off than left behind covered.
        among[1:] *= self._rule.hiding
        first = np.argmin(among, axis=0)
        runner_up = np.partition(among, 1, axis=0)[1] if len(kept) > 1 else np.full(len(first), np.inf)
        clear = runner_up - among.min(axis=0) > self._rule.explained
        if clear.any():
            belongs = (first[clear][None] == np.arange(len(kept))[:, None]).astype(np.float64)
            nearness = self._nearness[:, clear]
            among -= self._rule.doubt * belongs @ (nearness / nearness.sum(axis=1, keepdims=True)).T
        settled: NDArray[np.int64] = numbers[np.argmin(among, axis=0)]
        return settled


def _regions(
    points: Floats, colours: Floats, loose: NDArray[np.intp], cells: int, rule: LayerRule
) -> list[NDArray[np.intp]]:
    """Sets of `loose` points, near each other and of like colour, of about `cells` squares each."""
    if not len(loose):
        return []
    filled = len(np.unique(np.floor(points[loose] / rule.near), axis=0))
    count = int(np.clip(np.ceil(filled / cells), 1, rule.regions))
    # Two squares apart is as different as two matches under other light may be.
    features = np.concatenate([points[loose] / (2.0 * rule.near), colours[loose] / (2.0 * rule.noise)], axis=1)
    label = _cluster(features, min(count, len(loose)))
    return [loose[label == index] for index in range(count) if np.any(label == index)]


def _thinned(points: Floats, count: int) -> NDArray[np.intp]:
    """Indices of at most `count` of `points`, spread out: each the farthest from those before it."""
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.asarray(chosen)


def _cluster(features: Floats, count: int) -> NDArray[np.int64]:
    """k-means labels (N,), begun with points each farthest from those before it, so that nothing is drawn."""
    centre = features[_thinned(features, count)]
    label = np.zeros(len(features), dtype=np.int64)
    for _ in range(20):
        label = np.argmin(np.linalg.norm(features[:, None] - centre[None], axis=-1), axis=1)
        centre = np.stack(
            [features[label == k].mean(axis=0) if np.any(label == k) else centre[k] for k in range(count)]
        )
    return label
