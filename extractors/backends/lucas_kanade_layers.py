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
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

IDENTITY: Floats = np.eye(2, 3)


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """Thresholds of the layer tracker; grey levels are of 255, pixels those of the working images.

    Attributes:
        window: side of the Lucas-Kanade window, pixels.
        levels: pyramid levels above the full one.
        patch: side of the box over which colour differences are averaged, pixels.
        cut: colour difference above which a point counts as hidden or wrong, whatever the amount, grey levels.
        noise: colour difference that a match under changing light has, grey levels.
        rest: a layer that differs by less has not moved since the frame before, grey levels.
        search: look for new motion (not just go on as before) where the layer differs by more, grey levels.
        lost: part of `cut` above which the whole layer counts as hidden.
        loop_px: forward-backward error at which a Lucas-Kanade match has lost 1/e of its weight, pixels.
        fit_px: distance from the layer's motion at which a match starts to count as an outlier, pixels.
        affinity: standard deviation of one update's change of scale, rotation and shear (1 is 100 %).
        border: pixels around a layer's points that are registered with it.
        reach_px: pixels around a layer in which its next position is searched.
        slack_px: how far off a visible point may be placed, pixels.
    """

    window: int = 11
    levels: int = 3
    patch: int = 5
    cut: float = 30.0
    noise: float = 15.0
    rest: float = 1.0
    search: float = 3.0
    lost: float = 0.9
    loop_px: float = 0.7
    fit_px: float = 2.0
    affinity: float = 0.06
    border: int = 12
    slack_px: int = 1
    reach_px: int = 40


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
    where = np.ascontiguousarray(points[:, None], dtype=np.float32)
    # remap takes at most 32767 rows, far more than the queries of one frame
    # None, not an empty array: OpenCV 5 takes the latter for a second map and reads rubbish
    values = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(values[:, 0], dtype=np.float32)


def match(
    first: Image, second: Image, points: Floats, guess: Floats, *, levels: int, settings: LayerSettings
) -> tuple[Floats, Floats]:
    """Pyramidal Lucas-Kanade in colour, there and back.

    Returns:
        positions (N, 2) in `second`, and the forward-backward error (N,) in pixels, infinite where the match failed.
    """
    start = np.ascontiguousarray(points[:, None], dtype=np.float32)
    options: dict[str, Any] = {
        "winSize": (settings.window, settings.window),
        "maxLevel": levels,
        "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.02),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
        "minEigThreshold": 1e-4,
    }
    there, ok_there, _ = cv2.calcOpticalFlowPyrLK(
        first, second, start, np.ascontiguousarray(guess[:, None], dtype=np.float32), **options
    )
    home, ok_back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, start.copy(), **options)
    error: Floats = np.linalg.norm((home - start)[:, 0].astype(np.float64), axis=-1)
    error[(ok_there[:, 0] == 0) | (ok_back[:, 0] == 0)] = np.inf
    return there[:, 0].astype(np.float64), error


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
    shift = np.array([_weighted_median(moved[:, axis], weights) for axis in (0, 1)])
    linear, centre = np.zeros((2, 2)), start.mean(axis=0)
    for _ in range(5):
        error = np.linalg.norm(moved - (start - centre) @ linear.T - shift, axis=1)
        robust = weights / (1.0 + (error / fit_px) ** 2) ** 2 + 1e-9
        centre = robust @ start / robust.sum()
        shift = robust @ moved / robust.sum()
        offset = start - centre
        normal = (robust[:, None] * offset).T @ offset / spread_px**2 + np.eye(2) / affinity**2
        linear = np.linalg.solve(normal, (robust[:, None] * offset).T @ (moved - shift) / spread_px**2).T
    return np.concatenate([np.eye(2) + linear, (shift - linear @ centre)[:, None]], axis=1)


class Layer:
    """Points of one reference frame, and the picture around them, followed as a whole."""

    def __init__(
        self,
        images: Sequence[Image],
        frame: int,
        points: Floats,
        settings: LayerSettings,
        border: int | None = None,
        attempts: int = 3,
    ) -> None:
        """`images` (h, w, 3) RGB of one size; `points` (N, 2) in image `frame`."""
        self._images, self._settings, self._attempts = images, settings, attempts
        self.frame, self.points = frame, points
        height, width = images[frame].shape[:2]
        self._extent = np.array([width, height]) - 0.5
        border = settings.border if border is None else border
        low = np.maximum(np.floor(points.min(axis=0)) - border, 0).astype(int)
        high = np.minimum(np.ceil(points.max(axis=0)) + border, [width - 1, height - 1]).astype(int)
        self._corner = low
        self._size = (int(high[0] - low[0] + 1), int(high[1] - low[1] + 1))
        self._template = np.ascontiguousarray(images[frame][low[1] : high[1] + 1, low[0] : high[0] + 1])
        self._inside = points - low
        # A point in a crowd counts for less: what matters is the area that the points stand for.
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        self._weights = 1.0 / np.exp(-((apart / 3.0) ** 2)).sum(axis=1)

    def follow(self, order: Sequence[int]) -> Floats:
        """Motions (len(order), 2, 3) from the reference frame to the frames `order`, which begins with it."""
        motion, velocity = IDENTITY.copy(), np.zeros(2)
        motions, previous = [motion], self._template
        trust = np.ones(len(self.points))
        for before, frame in itertools.pairwise(order):
            place = apply(motion, self.points)
            score, warped = self._score(frame, motion, previous)
            if score < self._settings.rest:
                motions.append(motion)
                previous, velocity = warped, np.zeros(2)
                continue
            guess = self._predict(before, frame, motion, velocity, trust, previous)
            motion, previous, difference = self._register(frame, guess, previous)
            trust = np.exp(-difference / self._settings.noise)
            velocity = apply(motion, self.points).mean(axis=0) - place.mean(axis=0)
            motions.append(motion)
        return np.stack(motions)

    def differences(self, frame: int, motion: Floats) -> Floats:
        """(N,) colour difference of each point's surroundings in `frame` under `motion`, grey levels, cut off.

        The cut is the value for points outside the image as well.
        """
        return self._difference(self._warp(frame, motion), self._template, motion)

    def hidden(self, frame: int, motion: Floats) -> Floats:
        """(N,) colour difference of each point itself, forgiving `slack_px`: grey levels, cut off, outside at the cut.

        The point's colour is compared with the range of colours around where it should be, so that an edge that is
        placed a pixel off does not hide the points beside it.
        """
        warped = cv2.blur(self._warp(frame, motion), (3, 3))
        kernel = np.ones((2 * self._settings.slack_px + 1,) * 2, dtype=np.uint8)
        wanted = sample(cv2.blur(self._template, (3, 3)), self._inside)
        low, high = sample(cv2.erode(warped, kernel), self._inside), sample(cv2.dilate(warped, kernel), self._inside)
        difference = np.maximum(np.maximum(low - wanted, wanted - high), 0.0).mean(axis=-1).astype(np.float64)
        difference[self.outside(motion)] = self._settings.cut
        capped: Floats = np.minimum(difference, self._settings.cut)
        return capped

    def outside(self, motion: Floats) -> NDArray[np.bool_]:
        """(N,) True where `motion` carries the point out of the image."""
        place = apply(motion, self.points)
        gone: NDArray[np.bool_] = np.any((place < -0.5) | (place > self._extent), axis=1)
        return gone

    def _warp(self, frame: int, motion: Floats) -> Image:
        where = compose(motion, translation(self._corner))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(self._images[frame], where, self._size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, dtype=np.uint8)

    def _difference(self, warped: Image, reference: Image, motion: Floats) -> Floats:
        side = self._settings.patch
        blurred = cv2.blur(cv2.absdiff(warped, reference), (side, side))
        difference = sample(blurred, self._inside).mean(axis=-1).astype(np.float64)
        difference[self.outside(motion)] = self._settings.cut
        capped: Floats = np.minimum(difference, self._settings.cut)
        return capped

    def _score(self, frame: int, motion: Floats, previous: Image) -> tuple[float, Image]:
        # The frame before keeps the score meaningful when light or aspect have changed since the reference.
        warped = self._warp(frame, motion)
        difference = self._difference(warped, self._template, motion) + self._difference(warped, previous, motion)
        return float(self._weights @ difference / (2.0 * self._weights.sum())), warped

    def _predict(
        self, before: int, frame: int, motion: Floats, velocity: Floats, trust: Floats, previous: Image
    ) -> Floats:
        """The best of: rest, constant velocity, and what the points' own flow says from either start."""
        settings = self._settings
        candidates = [motion, compose(translation(velocity), motion)]
        scores = [self._score(frame, candidate, previous)[0] for candidate in candidates]
        if min(scores) > settings.search:
            place = apply(motion, self.points)
            starts = [place, place + velocity] if np.abs(velocity).max() > 1.0 else [place]
            for start in starts:
                end, loop = self._flow(before, frame, place, start)
                weights = self._weights * trust * np.exp(-((loop / settings.loop_px) ** 2))
                end = np.where(np.isfinite(loop)[:, None], end, place)
                step = fit_update(place, end, weights, fit_px=settings.fit_px, affinity=settings.affinity)
                candidates.append(compose(step, motion))
                scores.append(self._score(frame, candidates[-1], previous)[0])
        # Rest wins ties: an untextured layer must not wander.
        scores[0] -= 0.3
        return candidates[int(np.argmin(scores))]

    def _flow(self, before: int, frame: int, place: Floats, start: Floats) -> tuple[Floats, Floats]:
        # A window around the layer is enough for its flow; a pyramid of the whole frame would cost more than the rest.
        ends = np.concatenate([place, start])
        reach = self._settings.reach_px
        low = np.clip(np.floor(ends.min(axis=0)) - reach, 0, np.maximum(self._extent - 2 * reach, 0)).astype(int)
        high = np.maximum(np.ceil(ends.max(axis=0)) + reach, low + 2 * reach).astype(int)
        cut = (slice(low[1], high[1]), slice(low[0], high[0]))
        end, loop = match(
            self._images[before][cut],
            self._images[frame][cut],
            place - low,
            start - low,
            levels=self._settings.levels,
            settings=self._settings,
        )
        return end + low, loop

    def _register(self, frame: int, motion: Floats, previous: Image) -> tuple[Floats, Image, Floats]:
        """`motion` corrected against the reference frame and, weaker, the frame before."""
        settings = self._settings
        score, warped = self._score(frame, motion, previous)
        # What is hidden is carried on, not registered: there is nothing to see.
        for attempt in range(self._attempts if score < settings.lost * settings.cut else 0):
            levels = 2 if attempt == 0 else 1
            matches = [self._matches(reference, warped, levels) for reference in (self._template, previous)]
            start = np.concatenate([self._inside, self._inside]) + self._corner
            end = np.concatenate([place for place, _ in matches]) + self._corner
            weights = np.concatenate([matches[0][1], 0.3 * matches[1][1]])
            update = fit_update(start, end, weights, fit_px=settings.fit_px, affinity=settings.affinity)
            better = compose(motion, update)
            new_score, new_warped = self._score(frame, better, previous)
            if new_score > score + 0.05:
                break
            gained = score - new_score
            motion, score, warped = better, new_score, new_warped
            if gained <= 0.0 or np.abs(apply(update, self.points) - self.points).max() < 0.1:
                break
        return motion, warped, self._difference(warped, self._template, motion)

    def _matches(self, reference: Image, warped: Image, levels: int) -> tuple[Floats, Floats]:
        settings = self._settings
        end, loop = match(reference, warped, self._inside, self._inside, levels=levels, settings=settings)
        side = (settings.patch, settings.patch)
        end = np.where(np.isfinite(loop)[:, None], end, self._inside)
        found, wanted = sample(cv2.blur(warped, side), end), sample(cv2.blur(reference, side), self._inside)
        alike = np.exp(-((np.abs(found - wanted).mean(axis=-1) / settings.noise) ** 2))
        return end, self._weights * alike * np.exp(-((loop / settings.loop_px) ** 2))


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2.0)])


@dataclass(frozen=True, slots=True)
class Grouping:
    """How points are dealt out to layers.

    Attributes:
        explained: mean colour difference (grey levels) below which the background explains a point.
        support_px: spacing of the extra points that fill up the surroundings of the queries, pixels.
        reach_px: how far from a query extra points are posed, pixels.
        cells: sizes of the regions tried, one round each, in squares of `support_px`.
        most_points: points of a layer that are matched.
        max_regions: most regions tried at one scale.
        price: what a further layer must save, in grey levels x independent points.
        max_regions: most regions tried in one round.
        bias: advantage of the background, grey levels.
        margin: what a further layer must save at a point that is not the background's, grey levels.
        stir_px: a layer that never strays farther from the background is the background.
        hiding: factor on the cost of moving layers when points are dealt out.
        lead: how much better the background fits where it is seen, grey levels.
        poor: colour difference of a match that is hardly one, grey levels.
        doubt: advantage of the layer of a point's clear neighbours, grey levels.
        clear: lead of the best layer over the next at which a point is clear, grey levels.
        near_px, like: distance (pixels) and colour difference (grey levels) over which points share their evidence.
    """

    explained: float = 2.0
    support_px: float = 6.0
    reach_px: float = 18.0
    cells: tuple[int, ...] = (40, 12)
    max_regions: int = 5
    draft_points: int = 16
    most_points: int = 30
    price: float = 10.0
    bias: float = 0.5
    stir_px: float = 1.5
    hiding: float = 0.87
    lead: float = 6.0
    poor: float = 12.0
    doubt: float = 4.0
    clear: float = 2.0
    margin: float = 4.0
    near_px: float = 6.0
    like: float = 12.0


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
    images: Sequence[Image], frame: int, queries: Floats, settings: LayerSettings, grouping: Grouping
) -> Assigned:
    """Finds the layers that explain `queries` (N, 2) of image `frame` best over all images.

    Candidate layers (the background, and regions of like colour at several scales) are followed through the clip;
    greedy selection keeps those that lower the colour difference at the points by more than a layer costs; each
    kept layer is followed again with all points that it won.
    """
    background = _background(images, frame, settings)
    points = np.concatenate([queries, _support(images, frame, queries, background, settings, grouping)])
    judge = _Judge(images, frame, points, settings, grouping)
    behind = Backdrop(images, frame, background, settings, grouping)
    motions, costs = [background], [judge.cost(background) - grouping.bias]
    kept, layer = [0], np.zeros(len(points), dtype=np.int64)

    still = np.zeros(len(points), dtype=np.bool_)

    def follow(members: NDArray[np.intp], *, draft: bool) -> None:
        most = grouping.draft_points if draft else grouping.most_points
        chosen = points[members[_thinned(points[members], most)]]
        followed = follow_both_ways(Layer(images, frame, chosen, settings, attempts=2 if draft else 3), len(images))
        apart = np.linalg.norm(_carried(followed, chosen) - _carried(background, chosen), axis=-1)
        if np.median(apart, axis=1).max() < grouping.stir_px:
            still[members] = True
            return
        motions.append(followed)
        costs.append(judge.cost(motions[-1], behind))

    for cells in grouping.cells:
        loose = np.flatnonzero((np.min([costs[index] for index in kept], axis=0) > grouping.explained) & ~still)
        for members in _regions(points, judge.colours, loose, cells, grouping):
            follow(members, draft=True)
        before = layer
        kept, layer = judge.select(np.stack(costs))
        for index in kept[1:]:
            members = np.flatnonzero(layer == index)
            if not np.array_equal(layer == index, before == index):
                follow(members, draft=False)
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


def _background(images: Sequence[Image], frame: int, settings: LayerSettings) -> Floats:
    """Motions (T, 2, 3) of what fills most of the picture: exact rest where the camera stands still."""
    height, width = images[frame].shape[:2]
    x, y = np.meshgrid((np.arange(16) + 0.5) * width / 16 - 0.5, (np.arange(16) + 0.5) * height / 16 - 0.5)
    layer = Layer(images, frame, np.stack([x.ravel(), y.ravel()], axis=1), settings)
    rest = np.broadcast_to(IDENTITY, (len(images), 2, 3))
    unmoved = [np.median(layer.differences(t, IDENTITY)) < settings.search for t in range(len(images))]
    # A robot before the lens hides most of the picture for a while; a moving camera changes nearly all frames.
    if np.mean(unmoved) > 0.5:
        return rest.copy()
    return follow_both_ways(layer, len(images))


def _support(
    images: Sequence[Image],
    frame: int,
    queries: Floats,
    background: Floats,
    settings: LayerSettings,
    grouping: Grouping,
) -> Floats:
    """(M, 2) further points around the queries that the background does not explain."""
    judge = _Judge(images, frame, queries, settings, grouping)
    loose = queries[judge.cost(background) > grouping.explained]
    if not len(loose):
        return np.empty((0, 2))
    height, width = images[frame].shape[:2]
    x, y = np.meshgrid(np.arange(2.0, width, grouping.support_px), np.arange(2.0, height, grouping.support_px))
    lattice = np.stack([x.ravel(), y.ravel()], axis=1)
    smooth = cv2.blur(images[frame], (3, 3))
    colours = sample(smooth, lattice)
    fitting = np.zeros(len(lattice), dtype=np.bool_)
    for query, colour in zip(loose, sample(smooth, loose), strict=True):
        close = np.linalg.norm(lattice - query, axis=1) < grouping.reach_px
        fitting |= close & (np.abs(colours - colour).mean(axis=1) < settings.noise)
    lattice = lattice[fitting]
    if not len(lattice):
        return lattice
    judge = _Judge(images, frame, lattice, settings, grouping)
    return lattice[judge.cost(background) > grouping.explained]


class Backdrop:
    """The background, and where it is seen: nothing else can be at such a place in such a frame."""

    def __init__(
        self, images: Sequence[Image], frame: int, motions: Floats, settings: LayerSettings, grouping: Grouping
    ) -> None:
        """`motions` (T, 2, 3) carry image `frame`'s background to every image."""
        self.motions = motions
        self._images, self._frame, self._side = images, frame, (settings.patch, settings.patch)
        self._away, self._lead = grouping.stir_px, grouping.lead

    def seen(self, frame: int, points: Floats, motion: Floats, difference: Floats) -> NDArray[np.bool_]:
        """(N,) True where `motion` puts a point at a place that shows the background in `frame`.

        That is: the background fits there better than the point itself (`difference`, grey levels) by a clear lead.
        """
        place = apply(motion, points)
        inverse = cv2.invertAffineTransform(self.motions[frame]).astype(np.float64)
        origin = apply(inverse, place)
        height, width = self._images[self._frame].shape[:2]
        known = np.all((origin >= 0) & (origin <= [width - 1, height - 1]), axis=1)
        moved = np.linalg.norm(origin - points, axis=1) > self._away
        background = sample(self._residual(frame), origin).mean(axis=-1)
        seen: NDArray[np.bool_] = known & moved & (background < difference - self._lead)
        return seen

    def _residual(self, frame: int) -> Image:
        height, width = self._images[frame].shape[:2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(
            self._images[frame], self.motions[frame], (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(cv2.blur(cv2.absdiff(warped, self._images[self._frame]), self._side), dtype=np.uint8)


class _Judge:
    """Says how well a motion explains each of a set of points, and picks layers by it."""

    def __init__(
        self, images: Sequence[Image], frame: int, points: Floats, settings: LayerSettings, grouping: Grouping
    ) -> None:
        self._layer = Layer(images, frame, points, settings, border=settings.patch)
        self._n_frames, self._grouping = len(images), grouping
        self._cut, self._poor = settings.cut, grouping.poor
        self.colours = sample(cv2.blur(images[frame], (3, 3)), points).astype(np.float64)
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        unlike = np.abs(self.colours[:, None] - self.colours[None]).mean(axis=-1)
        # Points that are hidden whenever it matters follow their like-coloured neighbours.
        alike = np.exp(-0.5 * (apart / grouping.near_px) ** 2 - 0.5 * (unlike / grouping.like) ** 2)
        self._weights = 1.0 / np.exp(-((apart / 3.0) ** 2)).sum(axis=1)
        alike *= self._weights
        self._apart = apart
        self._nearness = self._weights * np.exp(
            -0.5 * (apart / (2.0 * grouping.near_px)) ** 2 - 0.5 * (unlike / (2.0 * grouping.like)) ** 2
        )
        self._smooth = alike / alike.sum(axis=1, keepdims=True)

    def cost(self, motions: Floats, behind: Backdrop | None = None) -> Floats:
        """(N,) mean colour difference over the clip, smoothed over neighbours of like colour.

        Where `behind` is seen, a layer that should be in front of it is not.
        """
        total = np.zeros(len(self._weights))
        for frame, motion in enumerate(motions):
            difference = self._layer.differences(frame, motion)
            if behind is not None:
                difference[behind.seen(frame, self._layer.points, motion, difference)] = self._cut
            # A poor match counts nearly as none: what sweeps over a point must not earn by resembling it a little.
            total += self._cut * (1.0 - np.exp(-((difference / self._poor) ** 2)))
        return np.asarray(self._smooth @ (total / self._n_frames))

    def select(self, costs: Floats) -> tuple[list[int], NDArray[np.int64]]:
        """The layers worth their price out of `costs` (L, N), the background first, and each point's layer (N,)."""
        kept = [0]
        best, winner = costs[0].copy(), np.zeros(costs.shape[1], dtype=np.int64)
        while True:
            margin = np.where(winner == 0, 0.0, self._grouping.margin)
            saved = np.maximum(best - costs - margin, 0.0)
            choice = int(np.argmax(saved @ self._weights))
            if saved[choice] @ self._weights <= self._grouping.price:
                break
            kept.append(choice)
            won = saved[choice] > 0.0
            best, winner = np.where(won, costs[choice], best), np.where(won, choice, winner)
        winner = self._settled(costs, kept, best)
        return [0] + [index for index in kept[1:] if np.any(winner == index)], winner

    def _settled(self, costs: Floats, kept: list[int], best: Floats) -> NDArray[np.int64]:
        """Each point's layer (N,) among `kept`, with the layers of the clear points around it as prior."""
        numbers = np.asarray(kept)
        among = costs[numbers]
        # A point hidden under every layer costs each the same; it is then rather carried off than left behind covered.
        among[1:] *= self._grouping.hiding
        first = np.argmin(among, axis=0)
        runner_up = np.partition(among, 1, axis=0)[1] if len(kept) > 1 else np.full(len(first), np.inf)
        clear = runner_up - among.min(axis=0) > self._grouping.clear
        if not clear.any():
            clearest: NDArray[np.int64] = numbers[first]
            return clearest
        belongs = (first[clear][None] == np.arange(len(kept))[:, None]).astype(np.float64)
        nearness = self._nearness[:, clear] + 1e-12 / (1.0 + self._apart[:, clear])
        prior = belongs @ (nearness / nearness.sum(axis=1, keepdims=True)).T
        settled: NDArray[np.int64] = numbers[np.argmin(among - self._grouping.doubt * prior, axis=0)]
        return settled


def _regions(
    points: Floats, colours: Floats, loose: NDArray[np.intp], cells: int, grouping: Grouping
) -> list[NDArray[np.intp]]:
    """Sets of `loose` points, near each other and of like colour, of about `cells` support squares each."""
    if not len(loose):
        return []
    filled = len(np.unique(np.floor(points[loose] / grouping.support_px), axis=0))
    count = int(np.clip(np.ceil(filled / cells), 1, grouping.max_regions))
    features = np.concatenate([points[loose] / (2.0 * grouping.support_px), colours[loose] / 30.0], axis=1)
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
    return np.sort(np.asarray(chosen))


def _cluster(features: Floats, count: int) -> NDArray[np.int64]:
    """k-means labels (N,), begun with points each farthest from those before it, so that nothing is drawn."""
    centres = [features[np.argmin(np.linalg.norm(features - features.mean(axis=0), axis=1))]]
    nearest = np.linalg.norm(features - centres[0], axis=1)
    while len(centres) < count:
        centres.append(features[int(np.argmax(nearest))])
        nearest = np.minimum(nearest, np.linalg.norm(features - centres[-1], axis=1))
    centre = np.stack(centres)
    label = np.zeros(len(features), dtype=np.int64)
    for _ in range(20):
        label = np.argmin(np.linalg.norm(features[:, None] - centre[None], axis=-1), axis=1)
        centre = np.stack(
            [features[label == k].mean(axis=0) if np.any(label == k) else centre[k] for k in range(count)]
        )
    return label
