"""Affine motion layers: which parts of a clip move together, and how, from one reference frame.

A layer is a set of points of the reference frame that one affine motion per frame carries along (Wang and Adelson,
"Representing Moving Images with Layers", 1994). Small untextured objects, which give a single Lucas-Kanade window
nothing to hold on to, are followed well as a whole: every point of the layer votes, outliers are left out, and the
motion is registered against the reference frame itself, so that errors do not add up over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.layers.layer import Layer, follow_both_ways, sample, squares_apart, whole_picture
from extractors.backends.layers.motions import IDENTITY, Floats, apply, carried
from extractors.backends.layers.rule import Image, LayerRule, odd
from extractors.geometry import sample_indices
from extractors.side_by_side import map_side_by_side


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
        background = follow_both_ways(whole_picture(images, frame, rule), len(images))
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
            apart = np.linalg.norm(carried(followed, chosen) - carried(background, chosen), axis=-1)
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
        self._residual = cv2.blur(grey, (odd(rule.patch),) * 2)
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
        self._apart = squares_apart(points)
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
