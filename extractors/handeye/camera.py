"""The solver: clips of one camera in, its calibration out, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.errors import GeometryError
from extractors.handeye.adjust import (
    RESIDUAL_FLOOR,
    Problem,
    Solution,
    free_columns,
    place_points,
    settle,
    solve,
)
from extractors.handeye.judge import Limits, Uncertainty, judge, uncertainty
from extractors.handeye.path import HandPath
from extractors.handeye.problem import (
    N_CAMERA,
    WRIST_PRIORS,
    Calibration,
    CameraState,
    Floats,
    Priors,
    Rig,
    TrackedClip,
)
from extractors.handeye.project import Observations, poses_at
from extractors.handeye.start import Affine, affine_groups, affine_sums, moving_tracks, start_cameras

START_TRACKS = 30
"""Tracks that starts are tried with; more cost time and change no choice."""

START_OBSERVATIONS = 1200
"""Observations of them that starts are tried with."""

RIVAL_EXCESS = 5.0
"""A camera in another basin is ruled out if it is less likely by this factor's exponential (e^5 is 150)."""

HALVES_APART = 12.0
"""Squared distance per parameter at which two halves tell different cameras. Up to here sigmas are widened by it:
tracks that drift differ by 2 to 8, a camera that is nudged by a twentieth of the width by 50 and more."""

DELAY = 10
"""Column of the delay."""

START_SCALE = 0.01
"""Noise that starts are tried with, widths of the frame: soft-L1 stays round where a poor start still has to go."""

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

DELAYS_S = tuple(np.linspace(-0.6, 0.6, 13).tolist())
"""Delays that starts are tried with; the solver moves on from the best."""


def calibrate_camera(
    clips: Sequence[TrackedClip],
    *,
    rig: Rig = "fixed",
    priors: Priors | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> Calibration:
    """The camera of one or more clips, from tracks and the hand's recorded poses.

    Which tracks ride on the hand is found: groups of tracks that move as an affine camera would see the hand move are
    each brought to a full solution from several focal lengths, the tracks that agree with it are chosen again, and the
    solution that explains most of what moves is kept.

    Args:
        clips: of one camera that stays where it is; their frames have one size.
        rig: "fixed": the camera stands, tracks ride on the hand; "wrist": the camera rides, the scene stands.
        priors: what is believed before; by default broad.
        limits: what counts as observable.
        seed: fixes the draws; equal arguments give equal results.

    Returns:
        The calibration; where it is not observable it holds the reasons, and NaN where nothing was solved.

    Raises:
        GeometryError: no clip, clips of different frame sizes, or a path that is none (see `HandPath.through`).
    """
    _check(clips)
    priors = priors or (WRIST_PRIORS if rig == "wrist" else Priors())
    limits = limits or Limits()
    places = np.concatenate([clip.hand_pose[:, :3, 3] for clip in clips])
    origin = np.nan_to_num(np.nanmean(places, axis=0))
    paths = [HandPath.through(clip.hand_pose, clip.timestamp, origin, rig) for clip in clips]
    search = _Search(clips, paths, rig, priors, seed)
    delays = DELAYS_S if priors.delay_s > 0 else (0.0,)
    groups = affine_groups(clips, paths, delays, lever_m=search.lever_m, seed=seed)
    found = [solved for group in groups if (solved := search.solve_group(group)) is not None]
    if not found:
        reason = f"fewer than {limits.min_tracks} tracks move as the recorded hand does"
        return _nothing(search.n_tracks, reason, {"groups": len(groups)})
    best = max(found, key=lambda each: each.explained)
    spread = uncertainty(best.problem, best.solution)
    halves = _halves(best, len(clips))
    spread = spread.widened(max(halves, 1.0))
    verdict = judge(best.problem, best.solution, best.riding, spread, limits) + _undecided(best, spread)
    if halves > HALVES_APART:
        what = "every other clip" if len(clips) > 1 else "the clip's two halves"
        verdict += (f"{what} tell different cameras ({np.sqrt(halves):.1f} sigmas apart)",)
    return _calibration(clips, search, best, spread, verdict, origin, halves)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A full solution of one group.

    Attributes:
        riding: (N,) bool, tracks that agree with it.
        explained: sum over moving tracks of how well and how long they agree.
        rivals: solutions of the same tracks in other basins.
    """

    problem: Problem
    solution: Solution
    riding: NDArray[np.bool_]
    explained: float
    rivals: list[Solution]


class _Search:
    """What every group's solution needs."""

    def __init__(
        self, clips: Sequence[TrackedClip], paths: Sequence[HandPath], rig: Rig, priors: Priors, seed: int
    ) -> None:
        self.clips, self.paths, self.rig, self.priors, self.seed = clips, paths, rig, priors, seed
        self.n_tracks = sum(clip.visibility.shape[1] for clip in clips)
        self.lever_m = float(np.hypot(priors.shared_m, priors.own_m))
        self.sums = affine_sums(clips, paths, 0.0, self.lever_m)
        self.candidates = moving_tracks(clips, self.sums)
        self.seen = _observations(clips).of(self.candidates)
        self.turned = paths[0].at(0.0).rotation[len(clips[0].timestamp) // 2]

    def solve_group(self, group: Affine) -> _Found | None:
        """The best solution that a group leads to, None where too few tracks stay."""
        basins = self._basins(group, group.riding & self.candidates)
        found = self._trimmed(basins[0], group.riding & self.candidates) if basins else None
        if found is None:
            return None
        rivals = self._rivals(found, basins)
        better = min([found.solution, *rivals], key=lambda each: each.cost)
        if better.cost < found.solution.cost - 1.0:
            again = self._trimmed(better.state, found.riding)
            if again is not None:
                found = again
                rivals = self._rivals(found, basins)
        return replace(found, rivals=rivals)

    def _trimmed(self, state: CameraState, riding: NDArray[np.bool_]) -> _Found | None:
        """The solution near a camera, and the tracks that agree with it, by turns."""
        scale = START_SCALE
        placed = place_points(self._problem(self.candidates), state, scale)
        for factor in TIGHTER:
            problem = self._problem(riding)
            solution = settle(problem, state, placed.points, scale)
            placed = place_points(self._problem(self.candidates), solution.state, solution.scale, solution.points)
            again = self._agreeing(placed, riding, factor)
            if again.sum() < 3:
                return None
            if (again == riding).all() and factor == TIGHTER[-1]:
                break
            state, scale, riding = solution.state, solution.scale, again
        return _Found(problem, solution, riding, self._explained(placed, riding), [])

    def _basins(self, group: Affine, riding: NDArray[np.bool_], most: int = 4) -> list[CameraState]:
        """Cameras that starts lead to, best first, no two alike; from some of the tracks, with the clock held."""
        problem = self._thinned(riding)
        if not len(problem.seen.track):
            return []
        problem = replace(problem, free=problem.free & (np.arange(N_CAMERA) != DELAY))
        tried = []
        for state in start_cameras(group, self.turned, problem.seen.xy.mean(axis=0), self.rig):
            points = np.repeat(state.shared[None], self.n_tracks, axis=0)
            tried.append(solve(problem, state, points, START_SCALE, steps=12, tolerance=1e-4))
        kept: list[CameraState] = []
        for each in sorted(tried, key=lambda solution: solution.cost):
            if len(kept) < most and not any(_alike(each.state, other) for other in kept):
                kept.append(each.state)
        return kept

    def _rivals(self, found: _Found, basins: Sequence[CameraState]) -> list[Solution]:
        """Solutions of the tracks that ride from other basins, at the noise that was found."""
        scale = found.solution.scale
        solved = []
        for state in basins:
            placed = place_points(found.problem, state, scale)
            each = solve(found.problem, state, placed.points, scale)
            if not _alike(each.state, found.solution.state):
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
        seen = self._problem(self.candidates).seen
        deviation, count = _deviations(seen, placed)
        usual = max(float(np.quantile(deviation[riding], 0.4)), GOOD_TRACK)
        chance = CHANCE_SIGMAS / np.sqrt(np.maximum(4 * count - 6, 2))
        agrees = deviation <= np.minimum(usual * (factor + chance), WORST_RESIDUAL)
        coherent = _coherence(seen, placed, self.paths)
        agrees &= coherent <= np.maximum(COHERENT, COHERENT * np.median(coherent[riding])) * factor
        apart = np.linalg.norm(placed.points - placed.state.shared, axis=1)
        return self.candidates & agrees & (apart <= FAR_OWN * self.priors.own_m)

    def _explained(self, placed: Solution, riding: NDArray[np.bool_]) -> float:
        """How much of the motion of moving tracks the solution accounts for, in tracks."""
        deviation, _ = _deviations(self._problem(self.candidates).seen, placed)
        good = 1 - np.minimum(deviation / np.maximum(self.sums.motion, 1e-9), 1)
        return float((np.where(riding, good, 0) * np.minimum(self.sums.seen_share, 1)).sum())

    def _problem(self, tracks: NDArray[np.bool_]) -> Problem:
        return Problem(self.seen.of(tracks), self.paths, self.priors, free_columns(self.priors))


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


def _deviations(seen: Observations, placed: Solution) -> tuple[Floats, Floats]:
    """(N,) deviation per axis of each track's observations, infinite where it has none, and their number.

    A single observation counts as five times the noise at most, so that one lost frame does not cost a track.
    """
    squared = np.minimum(placed.distance, 5 * placed.scale) ** 2
    count = seen.per_track(np.ones((len(squared), 1)))[:, 0]
    # Three numbers of each track went into its point.
    freedom = np.maximum(2 * count - 3, 1)
    deviation = np.sqrt(seen.per_track(squared[:, None])[:, 0] / freedom)
    return np.where(count > 0, deviation, np.inf), count


def _coherence(seen: Observations, placed: Solution, paths: Sequence[HandPath]) -> Floats:
    """(N,) how much of a track's residual goes with the hand's place, over what noise would: about 1 for one that rides.

    A link that goes part of the hand's way leaves little residual, but all of it goes with the hand: six numbers hold
    what is spread over a hundred.
    """
    poses = poses_at(paths, placed.state.delay_s)
    place = poses.translation[seen.frame]
    residual = placed.residual * np.minimum(1, 5 * placed.scale / np.maximum(placed.distance, 1e-12))[:, None]
    count = seen.per_track(np.ones((len(place), 1)))
    off = place - (seen.per_track(place) / np.maximum(count, 1))[seen.track]
    square = seen.per_track(off[:, :, None] * off[:, None])
    across = seen.per_track(off[:, :, None] * residual[:, None])
    square += 1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-9 * np.eye(3)
    explained = np.einsum("nia,nia->n", across, np.linalg.solve(square, across))
    total: Floats = explained / (6 * placed.scale**2)
    return total


def _alike(one: CameraState, other: CameraState, focal: float = 0.1, degrees: float = 8.0) -> bool:
    turned = np.clip((np.trace(one.rotation.T @ other.rotation) - 1) / 2, -1, 1)
    return abs(one.log_focal - other.log_focal) < focal and np.degrees(np.arccos(turned)) < degrees


def _undecided(found: _Found, spread: Uncertainty) -> tuple[str, ...]:
    """Reasons from other basins: a camera that explains the tracks about as well and is not the same."""
    best = found.solution
    for rival in found.rivals:
        excess = (rival.cost - best.cost) / spread.inflation
        if excess < RIVAL_EXCESS and not _alike(rival.state, best.state, focal=max(3 * spread.focal, 0.1)):
            apart = np.exp(abs(rival.state.log_focal - best.state.log_focal)) - 1
            return (f"two cameras explain the tracks about as well; their focal lengths are {apart:.0%} apart",)
    return ()


def _halves(found: _Found, n_clips: int) -> float:
    """Squared distance, in their own sigmas and per parameter, of the cameras that two halves of the data tell: about 1.

    A camera that is nudged, an object that slips, poses that are not the hand's and tracks that drift leave their
    trace here, also where the residual is small: parameters bend to one half or the other. Halves in time of a clip;
    every other clip of many.
    """
    seen = found.problem.seen
    frames = np.cumsum([0, *(len(path.timestamp) for path in found.problem.paths)])
    clip_of = np.searchsorted(frames, seen.frame, side="right") - 1
    first = clip_of % 2 == 0 if n_clips > 1 else seen.frame < np.median(seen.frame)
    told = []
    for half in (first, ~first):
        problem = replace(
            found.problem, seen=Observations(seen.xy[half], seen.frame[half], seen.track[half], seen.n_tracks)
        )
        solution = solve(problem, found.solution.state, found.solution.points, found.solution.scale)
        told.append((solution.state, uncertainty(problem, solution).covariance[:7, :7]))
    (one, one_covariance), (other, other_covariance) = told
    turn = Rotation.from_matrix(one.rotation.T @ other.rotation).as_rotvec()
    apart = np.array([other.log_focal - one.log_focal, *turn, *(other.position - one.position)])
    return float(apart @ np.linalg.solve(one_covariance + other_covariance, apart)) / len(apart)


def _calibration(
    clips: Sequence[TrackedClip],
    search: _Search,
    best: _Found,
    spread: Uncertainty,
    reasons: tuple[str, ...],
    origin: Floats,
    halves: float,
) -> Calibration:
    state, solution, riding = best.solution.state, best.solution, best.riding
    carrier_from_camera = np.eye(4)
    carrier_from_camera[:3, :3] = state.rotation
    wrist = search.rig == "wrist"
    carrier_from_camera[:3, 3] = state.position + (0 if wrist else origin)
    points = solution.points + (origin if wrist else 0)
    return Calibration(
        observable=not reasons,
        reasons=reasons,
        focal_px=state.focal * clips[0].size[1],
        focal_sigma=spread.focal,
        carrier_from_camera=carrier_from_camera,
        position_sigma_m=spread.position_m,
        rotation_sigma_deg=spread.rotation_deg,
        delay_s=state.delay_s,
        delay_sigma_s=spread.delay_s,
        points=np.where(riding[:, None], points, np.nan),
        points_sigma=np.where(riding[:, None], spread.points_m, np.nan),
        riding=riding,
        residual=solution.scale,
        covariance=spread.covariance,
        report={
            "riding": int(riding.sum()),
            "moving": int(search.candidates.sum()),
            "inflation": spread.inflation,
            "halves_apart": halves,
            "explained": best.explained,
            "shared_m": state.shared.tolist(),
        },
    )


def _nothing(n_tracks: int, reason: str, report: dict[str, Any]) -> Calibration:
    nan = float("nan")
    return Calibration(
        observable=False,
        reasons=(reason,),
        focal_px=nan,
        focal_sigma=nan,
        carrier_from_camera=np.full((4, 4), nan),
        position_sigma_m=nan,
        rotation_sigma_deg=nan,
        delay_s=nan,
        delay_sigma_s=nan,
        points=np.full((n_tracks, 3), nan),
        points_sigma=np.full((n_tracks, 3), nan),
        riding=np.zeros(n_tracks, np.bool_),
        residual=nan,
        covariance=np.full((N_CAMERA, N_CAMERA), nan),
        report=report,
    )


def _check(clips: Sequence[TrackedClip]) -> None:
    if not clips:
        raise GeometryError("a camera is calibrated from one clip at least, got none")
    shapes = {(clip.size, clip.pixel_aspect) for clip in clips}
    if len(shapes) > 1:
        raise GeometryError(f"clips of one camera have one frame size, got {sorted(shapes)}; group them by camera")
