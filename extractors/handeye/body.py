"""Points of a thing from the frames in which a hand carries it and from its rests, as those of one surface.

A rest beside the hold is one more view of the same points; how the thing turned and slid as fingers took it up or let
it go is found with the points. What is seen of a thing is a surface: points that are near one
another across the camera's axis are about as far along it (a Gaussian process, Rasmussen and Williams 2006, chapter 2).
A track alone tells depth worse than a thing is deep where the hand moves by two hand's breadths and hardly turns; two
hundred tracks of one surface tell it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.handeye.adjust import RESIDUAL_FLOOR
from extractors.handeye.descent import Normal, by_shared, descend, reduced, soft_loss, soft_weight
from extractors.handeye.path import Poses
from extractors.handeye.problem import CameraState, Floats
from extractors.handeye.project import Carried, Observations, carried_by, project_points
from extractors.handeye.rests import REST_M, REST_RAD, Rest

SHAPES, LEAST_SHAPE, LANDMARKS = 12, 1e-4, 50
"""Most shapes that a surface is made of, the least share that each has in how it varies, and by how many of its points
they are drawn (Nystrom; Rasmussen and Williams, chapter 8)."""

ROUGH = 0.3
"""How far points are from a smooth surface along the camera's axis, share of how far they are from their middle; 0.1 to
0.5 do as well on 100 generated objects (docs/benchmarks.md)."""

_MEDIAN_VARIANCE = np.pi / 2
"""Variance of a median over that of a mean, of normal errors."""


class Fit(NamedTuple):
    """Where the descent stands: (N, 3) points, (3,) their middle, (S,) weights of shapes, (K, 6) motions, and its cost.

    A motion is a rotation vector about the middle where the descent began and a shift, in the hand's frame. `residual`
    (2, O) is in widths of the frame, `by_point` (3, 2, O) its change by where the point is in the hand's frame.
    """

    points: Floats
    middle: Floats
    weights: Floats
    motions: Floats
    cost: float
    residual: Floats
    by_point: Floats


@dataclass(frozen=True, eq=False)
class Body:
    """A thing with N tracks, all its points sought.

    Attributes:
        seen: observations while it is held and in rests, by track; frames are rows of `poses`.
        sigma: (O,) noise of each, widths of the frame.
        rest: (O,) number of the rest of each; -1 while it is held.
        poses: of the hand; in a rest, when it took the thing up or let it go.
        state: the camera.
        start: (N, 3) metres in the hand's frame.
        sight: (3,) unit, the camera's axis in the hand's frame; the ray to a thing at the side tells no better.
        own_m: deviation of the points about their middle.
        shared_m: of their middle about the hand.
        motions: (K, 6) where the descent begins.
    """

    seen: Observations
    sigma: Floats
    rest: NDArray[np.intp]
    poses: Poses
    state: CameraState
    start: Floats
    sight: Floats
    own_m: float
    shared_m: float
    motions: Floats

    def fitted(self) -> Fit:
        """The most probable points."""
        middle = self.start.mean(axis=0)
        place = self._at(self.start, middle, np.zeros(self._shapes.shape[1]), self.motions)
        return descend(place, self.normal, self.moved, np.ones(self.n_shared, np.bool_))

    def covariance(self, place: Fit, trust: Floats, alike: float) -> Floats:
        """(N, 3, 3) square metres, of the points.

        Args:
            place: where the descent ended.
            trust: (O,) share of its information that each observation is worth.
            alike: so many tracks err as one: what all points share is told so many times worse.
        """
        schur, _, carried, inverse = reduced(self.normal(place, trust))
        believed = np.diag(self._information)
        return np.asarray(inverse + by_shared(carried, np.linalg.inv((schur - believed) / alike + believed)))

    @cached_property
    def _carried(self) -> Carried:
        return carried_by(self.poses, self.seen)

    @cached_property
    def _singles(self) -> Observations:
        """Each observation as that of a point of its own."""
        return replace(self.seen, track=np.arange(len(self.rest)), n_tracks=len(self.rest))

    @cached_property
    def _shapes(self) -> Floats:
        """(N, S) distances along the camera's axis, of surfaces as deep as the thing is wide and as smooth."""
        across = off_axis(self.start, self.sight)
        chosen = across[np.unique(np.linspace(0, len(across) - 1, LANDMARKS).round().astype(int))]
        squared, among = (((across[:, None] - chosen) ** 2).sum(axis=2), ((chosen[:, None] - chosen) ** 2).sum(axis=2))
        values, vectors = np.linalg.eigh(np.exp(-0.5 * among / self.own_m**2))
        kept = np.flatnonzero(values > LEAST_SHAPE * values.sum())[-SHAPES:]
        return np.asarray(np.exp(-0.5 * squared / self.own_m**2) @ (vectors[:, kept] / np.sqrt(values[kept])))

    @cached_property
    def n_shared(self) -> int:
        """Parameters of the motions, the middle and the shapes."""
        return int(self.motions.size) + 3 + int(self._shapes.shape[1])

    @cached_property
    def _belief(self) -> Floats:
        """(3, 3) information about how far a point is from its place on the surface."""
        along = np.outer(self.sight, self.sight)
        return np.asarray((np.eye(3) - along + along / ROUGH**2) / self.own_m**2)

    @cached_property
    def _by_surface(self) -> Floats:
        """(N, 3, 3 + S) places on the surface by the middle and the weights of the shapes."""
        middle = np.broadcast_to(np.eye(3), (len(self.start), 3, 3))
        return np.concatenate([middle, self.sight[:, None] * self._shapes[:, None, :]], axis=2)

    @cached_property
    def _information(self) -> Floats:
        """(C,) before any track is seen: of motions, of the middle, of the weights."""
        motion = np.repeat([REST_RAD**-2, REST_M**-2], 3)
        surface = np.repeat([self.shared_m**-2, self.own_m**-2], [3, self._shapes.shape[1]])
        return np.concatenate([np.tile(motion, len(self.motions)), surface])

    def _at(self, points: Floats, middle: Floats, weights: Floats, motions: Floats) -> Fit:
        at, pivot = points[self.seen.track], self.start.mean(axis=0)
        for number, motion in enumerate(motions):
            turned = (points - pivot) @ Rotation.from_rotvec(motion[:3]).as_matrix().T + pivot + motion[3:]
            of = self.rest == number
            at[of] = turned[self.seen.track[of]]
        found = project_points(self.state, at, self._carried, self._singles, held=True)
        residual = found.xy - self.seen.xy.T
        loss = soft_loss(residual, found.depth, self.sigma)
        off = points - self._by_surface @ np.concatenate([middle, weights])
        shared = np.concatenate([motions.ravel(), middle, weights])
        believed = np.einsum("ni,ij,nj->", off, self._belief, off) + self._information @ shared**2
        cost = float((loss * self._carried.inside).sum() + 0.5 * believed)
        return Fit(points, middle, weights, motions, cost, residual, found.by_point)

    def moved(self, place: Fit, step: Floats, moves: Floats) -> Fit:
        """The place after a step (C,) of what the points share, and one (N, 3) of the points."""
        motions, middle, weights = np.split(step, [place.motions.size, place.motions.size + 3])
        return self._at(
            place.points + moves,
            place.middle + middle,
            place.weights + weights,
            _composed(place.motions, motions.reshape(-1, 6)),
        )

    def normal(self, place: Fit, trust: Floats | float = 1.0) -> Normal:
        """The normal equations at a place; the shared parameters are the motions, the middle, the weights."""
        residual, by_point, track = place.residual, place.by_point, self.seen.track
        weight = trust * self._carried.inside * soft_weight(residual, self.sigma)
        mixed = np.zeros((len(place.points), self.n_shared, 3))
        information = np.diag(self._information)
        gradient = self._information * np.concatenate([place.motions.ravel(), place.middle, place.weights])
        by_point, pivot = by_point.copy(), self.start.mean(axis=0)
        for number, motion in enumerate(place.motions):
            of, columns = self.rest == number, slice(6 * number, 6 * number + 6)
            turn = Rotation.from_rotvec(motion[:3]).as_matrix()
            by_place = by_point[..., of]
            arm = (place.points[track[of]] - pivot) @ turn.T
            by_turn = np.cross(arm.T[:, None], by_place, axis=0)
            by_motion = np.concatenate([by_turn, by_place])
            by_point[..., of] = np.einsum("iao,ij->jao", by_place, turn)
            weighed = by_motion * weight[of]
            information[columns, columns] += np.einsum("iao,jao->ij", weighed, by_motion)
            gradient[columns] += np.einsum("iao,ao->i", weighed, residual[:, of])
            mixed[track[of], columns] = np.einsum("iao,jao->oij", weighed, by_point[..., of])
        weighed = by_point * weight
        rows = np.concatenate(
            [
                np.einsum("iao,jao->ijo", by_point, weighed).reshape(9, -1),
                np.einsum("iao,ao->io", weighed, residual),
            ]
        )
        sums = self.seen.per_track(rows)
        surface = slice(6 * len(place.motions), None)
        off = place.points - self._by_surface @ np.concatenate([place.middle, place.weights])
        pulled = self._belief @ self._by_surface
        information[surface, surface] += np.einsum("nij,nik->jk", self._by_surface, pulled)
        gradient[surface] -= np.einsum("nij,ni->j", pulled, off)
        mixed[:, surface] = -pulled.swapaxes(1, 2)
        point = np.moveaxis(sums[:9].reshape(3, 3, -1), -1, 0) + self._belief
        return Normal(information, point, mixed, gradient, sums[9:].T + off @ self._belief)


def off_axis(points: Floats, sight: Floats) -> Floats:
    """(N, 3) of `points` from their middle, across the unit direction `sight` (3,)."""
    off = points - points.mean(axis=0)
    return np.asarray(off - np.outer(off @ sight, sight))


def _composed(motions: Floats, steps: Floats) -> Floats:
    """(K, 6) the motions, turned further and shifted further by the steps."""
    if not len(motions):
        return motions
    turned = Rotation.from_rotvec(steps[:, :3]) * Rotation.from_rotvec(motions[:, :3])
    return np.concatenate([turned.as_rotvec(), motions[:, 3:] + steps[:, 3:]], axis=1)


def body_of(
    held: Observations,
    scale: float,
    poses: Poses,
    rests: Sequence[Rest],
    state: CameraState,
    start: Floats,
    moves: Floats,
    *,
    sight: Floats,
    own_m: float,
    shared_m: float,
) -> Body:
    """The body of N tracks.

    Args:
        held: their observations while the thing is held; frames are rows of `poses`.
        scale: noise of these, widths of the frame.
        poses: of the hand in each frame (T).
        rests: where each has the tracks' places, in the order of `start`.
        state: the camera.
        start: (N, 3) metres in the hand's frame, near where the points are.
        moves: (K, 4, 4) by which the thing had moved in the hand's frame in each rest.
        sight: (3,) unit, the camera's axis in the hand's frame.
        own_m: deviation of the points about their middle.
        shared_m: of their middle about the hand.
    """
    pivot = start.mean(axis=0)
    motions = np.zeros((len(rests), 6))
    xy, frame, track = [held.xy], [held.frame], [held.track]
    sigma, number = [np.full(len(held.frame), scale)], [np.full(len(held.frame), -1)]
    for each, (rest, move) in enumerate(zip(rests, moves, strict=True)):
        motions[each, :3] = Rotation.from_matrix(move[:3, :3]).as_rotvec()
        motions[each, 3:] = move[:3, :3] @ pivot + move[:3, 3] - pivot
        tracks = np.flatnonzero(rest.count)
        # What scatters about a track's median is averaged out; what of its noise does not is there in every frame.
        lasting = max(scale**2 - rest.scatter**2, RESIDUAL_FLOOR**2)
        xy.append(rest.xy[tracks])
        frame.append(np.full(len(tracks), len(poses.inside) + each))
        track.append(tracks)
        sigma.append(np.sqrt(lasting + _MEDIAN_VARIANCE * rest.scatter**2 / rest.count[tracks]))
        number.append(np.full(len(tracks), each))
    tracks = np.concatenate(track)
    order = np.argsort(tracks, kind="stable")
    rows = np.concatenate([np.arange(len(poses.inside)), [rest.edge for rest in rests]]).astype(int)
    return Body(
        seen=Observations(np.concatenate(xy)[order], np.concatenate(frame)[order], tracks[order], len(start)),
        sigma=np.concatenate(sigma)[order],
        rest=np.concatenate(number)[order],
        poses=Poses(*(each[rows] for each in poses)),
        state=state,
        start=start,
        sight=sight,
        own_m=own_m,
        shared_m=shared_m,
        motions=motions,
    )
