"""From groups of tracks that may ride on the hand to full solutions, and the tracks that agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.adjust import Problem, Solution, free_columns, place_points, settle, solve
from extractors.handeye.path import HandPath
from extractors.handeye.problem import N_CAMERA, Calibration, CameraState, Floats, Priors, Rig, TrackedClip
from extractors.handeye.project import Observations, poses_at
from extractors.handeye.start import Affine, affine_sums, moving_tracks, start_cameras

START_TRACKS = 30
"""Tracks that starts are tried with; more cost time and change no choice."""

START_OBSERVATIONS = 600
"""Observations of them that starts are tried with."""

START_STEPS, STARTS_LEFT = (6, 6), (5, 5)
"""Steps of all starts and then of the best that are left, and how many those are."""

DELAY = 10
"""Column of the delay."""

START_SCALE = 0.01
"""Noise that starts are tried with, widths of the frame: soft-L1 stays round where a poor start still has to go."""

AGAIN = 2.0
"""Noise that tracks which were matched again are begun with, over the noise before."""

TIGHTER = (2.0, 1.6, 1.3, 1.15, 1.15, 1.15)
"""A track rides if the deviation of its observations is below so many times the group's, round by round, plus what
chance does to few observations. A link of the arm that goes nine tenths of the hand's way deviates by a third more than
noise: the last rounds must be tight, the first must not throw out the hand because the camera is still wrong."""

CHANCE_SIGMAS = 3.0

COHERENT = 3.0
"""Most that the part of a track's residual which goes with the hand may exceed what noise has there (six degrees of
freedom: one in 200 of those that ride), or what the other tracks have."""

FAR_OWN = 3.0
"""Farthest that a point may be from the mean of those that ride, in standard deviations of `Priors.own_m`."""

GOOD_TRACK = 0.004
"""A track this close to the hand's motion is not told apart by its size, widths of the frame (1 px at 256): trackers
follow some points of one body to 0.3 px and others to 2 px, and drift in all of them."""

WORST_RESIDUAL = 0.012
"""Largest deviation of a track that rides, widths of the frame: three pixels at 256."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A full solution of one group.

    Attributes:
        riding: (N,) bool, tracks that agree with it.
        explained: sum over moving tracks of how well and how long they agree.
        places: (N, 3) where each track that moves would be if it rode, NaN for the others.
        basins: cameras that its starts led to.
        rivals: solutions of the same tracks in other basins; of the best group alone, as they cost as much as the rest.
    """

    problem: Problem
    solution: Solution
    riding: NDArray[np.bool_]
    explained: float
    places: Floats
    basins: Sequence[CameraState] = ()
    rivals: Sequence[Solution] = ()


class Search:
    """What every group's solution needs."""

    def __init__(
        self,
        clips: Sequence[TrackedClip],
        paths: Sequence[HandPath],
        rig: Rig,
        priors: Priors,
        seed: int,
        free: NDArray[np.bool_] | None = None,
    ) -> None:
        self.free = free_columns(priors) if free is None else free
        self.clips, self.paths, self.rig, self.priors, self.seed = clips, paths, rig, priors, seed
        self.n_tracks = sum(clip.visibility.shape[1] for clip in clips)
        self.lever_m = float(np.hypot(priors.shared_m, priors.own_m))
        self.sums = affine_sums(clips, paths, 0.0, self.lever_m)
        self.candidates = moving_tracks(clips, self.sums)
        self.seen = _observations(clips).of(self.candidates)
        self.turned = paths[0].at(0.0).rotation[len(clips[0].timestamp) // 2]

    def solve_group(self, group: Affine) -> Found | None:
        """The solution in the best basin that a group leads to, None where too few tracks stay."""
        basins = self._basins(group, group.riding & self.candidates)
        found = self._trimmed(basins[0], group.riding & self.candidates) if basins else None
        return None if found is None else replace(found, basins=basins)

    def solve_from(self, start: Calibration) -> Found | None:
        """The solution near another of the same tracks, None where too few stay."""
        riding = start.riding & self.candidates
        if not start.cameras or riding.sum() < 3:
            return None
        first, *others = start.cameras
        found = self._trimmed(first, riding, AGAIN * start.residual)
        return None if found is None else replace(found, basins=others)

    def beside_rivals(self, found: Found) -> Found:
        """A group's solution, or the one of another of its basins that is better by all tracks that ride."""
        rivals = self._rivals(found)
        better = min([found.solution, *rivals], key=lambda each: each.cost)
        if better.cost < found.solution.cost - 1.0:
            again = self._trimmed(better.state, found.riding)
            if again is not None:
                found = replace(again, basins=found.basins)
                rivals = self._rivals(found)
        return replace(found, rivals=rivals)

    def solve_known(self, state: CameraState) -> Found | None:
        """The tracks that agree with a camera that is held but for what `free` leaves, None where too few do."""
        if self.candidates.sum() < 3:
            return None
        placed = place_points(self._problem(self.candidates), state, START_SCALE)
        deviation, _ = _deviations(self.seen, placed)
        apart = np.linalg.norm(placed.points - placed.state.shared, axis=1)
        near = apart <= FAR_OWN * float(np.hypot(self.priors.shared_m, self.priors.own_m))
        riding = np.asarray(self.candidates & (deviation <= WORST_RESIDUAL) & near)
        return self._trimmed(state, riding) if riding.sum() >= 3 else None

    def _trimmed(self, state: CameraState, riding: NDArray[np.bool_], scale: float = START_SCALE) -> Found | None:
        """The solution near a camera, and the tracks that agree with it, by turns; noise of `scale` to begin with."""
        placed = place_points(self._problem(self.candidates), state, scale)
        for factor in TIGHTER:
            problem = self._problem(riding)
            solution = settle(problem, state, placed.points, scale)
            placed = self._beside_others(solution, riding)
            again = self._agreeing(placed, riding, factor)
            if again.sum() < 3:
                return None
            if (again == riding).all() and factor == TIGHTER[-1]:
                break
            state, scale, riding = solution.state, solution.scale, again
        places = np.where(self.candidates[:, None], placed.points, np.nan)
        return Found(problem, solution, riding, self._explained(placed, riding), places)

    def _beside_others(self, solution: Solution, riding: NDArray[np.bool_]) -> Solution:
        """The solution of the tracks that ride with the other candidates placed before its camera."""
        others = self._problem(self.candidates & ~riding)
        placed = place_points(others, solution.state, solution.scale, solution.points)
        rides = riding[self.seen.track]
        residual = np.empty((2, len(rides)))
        residual[:, rides], residual[:, ~rides] = solution.residual, placed.residual
        return replace(placed, points=np.where(riding[:, None], solution.points, placed.points), residual=residual)

    def _basins(self, group: Affine, riding: NDArray[np.bool_], most: int = 4) -> list[CameraState]:
        """Cameras that starts lead to, best first, no two alike; from some of the tracks, with the clock held."""
        problem = self._thinned(riding)
        if not len(problem.seen.track):
            return []
        problem = replace(problem, free=problem.free & (np.arange(N_CAMERA) != DELAY))
        starts = start_cameras(group, self.turned, problem.seen.xy.mean(axis=0), self.rig)
        tried = [(state, np.repeat(state.shared[None], self.n_tracks, axis=0)) for state in starts]
        # A few steps tell the hopeless ones.
        for steps, most_left in zip(START_STEPS, STARTS_LEFT, strict=True):
            solved = [solve(problem, *each, START_SCALE, steps=steps) for each in tried]
            solved = sorted(solved, key=lambda solution: solution.cost)[:most_left]
            tried = [(each.state, each.points) for each in solved]
        kept: list[CameraState] = []
        for each in solved:
            if len(kept) < most and not any(alike(each.state, other) for other in kept):
                kept.append(each.state)
        return kept

    def _rivals(self, found: Found) -> list[Solution]:
        """Solutions of the tracks that ride from other basins, at the noise that was found."""
        scale = found.solution.scale
        solved = []
        for state in found.basins:
            placed = place_points(found.problem, state, scale)
            each = solve(found.problem, state, placed.points, scale)
            if not alike(each.state, found.solution.state):
                solved.append(each)
        return solved

    def _thinned(self, riding: NDArray[np.bool_]) -> Problem:
        """The problem of at most `START_TRACKS` tracks and `START_OBSERVATIONS` of their observations."""
        rng = np.random.default_rng(self.seed)
        chosen = np.flatnonzero(riding)
        if len(chosen) > START_TRACKS:
            chosen = rng.choice(chosen, START_TRACKS, replace=False)
        problem = self._problem(np.isin(np.arange(self.n_tracks), chosen))
        seen = problem.seen
        if len(seen.track) <= START_OBSERVATIONS:
            return problem
        kept = np.sort(rng.choice(len(seen.track), START_OBSERVATIONS, replace=False))
        return replace(problem, seen=replace(seen, xy=seen.xy[kept], frame=seen.frame[kept], track=seen.track[kept]))

    def _agreeing(self, placed: Solution, riding: NDArray[np.bool_], factor: float) -> NDArray[np.bool_]:
        """Candidates whose deviation from a camera, their own point free, is that of the tracks that ride."""
        deviation, count = _deviations(self.seen, placed)
        usual = max(float(np.quantile(deviation[riding], 0.4)), GOOD_TRACK)
        chance = CHANCE_SIGMAS / np.sqrt(np.maximum(4 * count - 6, 2))
        agrees = deviation <= np.minimum(usual * (factor + chance), WORST_RESIDUAL)
        coherent = _coherence(self.seen, placed, self.paths)
        agrees &= coherent <= np.maximum(COHERENT, COHERENT * np.median(coherent[riding])) * factor
        apart = np.linalg.norm(placed.points - placed.state.shared, axis=1)
        return np.asarray(self.candidates & agrees & (apart <= FAR_OWN * self.priors.own_m))

    def _explained(self, placed: Solution, riding: NDArray[np.bool_]) -> float:
        """How much of the motion of moving tracks the solution accounts for, in tracks."""
        deviation, _ = _deviations(self.seen, placed)
        good = 1 - np.minimum(deviation / np.maximum(self.sums.motion, 1e-9), 1)
        return float((np.where(riding, good, 0) * np.minimum(self.sums.seen_share, 1)).sum())

    def _problem(self, tracks: NDArray[np.bool_]) -> Problem:
        return Problem(self.seen.of(tracks), self.paths, self.priors, self.free)


def _observations(clips: Sequence[TrackedClip]) -> Observations:
    xy, frames, tracks = [], [], []
    first_frame = first_track = 0
    for clip in clips:
        track, frame = np.nonzero(clip.visibility.T & np.isfinite(clip.xy).all(axis=2).T)
        xy.append(clip.centred[frame, track])
        frames.append(frame + first_frame)
        tracks.append(track + first_track)
        first_frame += clip.visibility.shape[0]
        first_track += clip.visibility.shape[1]
    return Observations(np.concatenate(xy), np.concatenate(frames), np.concatenate(tracks), first_track)


def _deviations(seen: Observations, placed: Solution) -> tuple[Floats, NDArray[np.intp]]:
    """(N,) deviation per axis of each track's observations, infinite where it has none, and their number.

    A single observation counts as five times the noise at most, so that one lost frame does not cost a track.
    """
    squared = np.minimum(placed.distance, 5 * placed.scale) ** 2
    count = seen.counts
    # Three numbers of each track went into its point.
    freedom = np.maximum(2 * count - 3, 1)
    deviation = np.sqrt(seen.per_track(squared) / freedom)
    return np.where(count > 0, deviation, np.inf), count


def _coherence(seen: Observations, placed: Solution, paths: Sequence[HandPath]) -> Floats:
    """(N,) how much of a track's residual goes with the hand's place, over what noise would; about 1 if it rides.

    A link that goes part of the hand's way leaves little residual, but all of it goes with the hand: six numbers hold
    what is spread over a hundred.
    """
    poses = poses_at(paths, placed.state.delay_s)
    place = poses.translation.T[:, seen.frame]
    residual = placed.residual * np.minimum(1, 5 * placed.scale / np.maximum(placed.distance, 1e-12))
    off = place - (seen.per_track(place) / np.maximum(seen.counts, 1))[:, seen.track]
    square = np.moveaxis(seen.per_track(off[:, None] * off), -1, 0).copy()
    across = np.moveaxis(seen.per_track(off[:, None] * residual), -1, 0)
    square += 1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-9 * np.eye(3)
    explained = np.einsum("nia,nia->n", across, np.linalg.solve(square, across))
    total: Floats = explained / (6 * placed.scale**2)
    return total


def alike(one: CameraState, other: CameraState, focal: float = 0.1, degrees: float = 8.0) -> bool:
    """Whether two cameras are one: logarithms of focal lengths within `focal`, rotations within `degrees`."""
    turned = np.clip((np.trace(one.rotation.T @ other.rotation) - 1) / 2, -1, 1)
    return abs(one.log_focal - other.log_focal) < focal and np.degrees(np.arccos(turned)) < degrees
