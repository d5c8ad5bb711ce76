"""The solver: clips of one camera in, its calibration out, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.errors import GeometryError
from extractors.handeye.adjust import solve
from extractors.handeye.judge import Limits, Uncertainty, clip_of, judge, uncertainty
from extractors.handeye.path import HandPath
from extractors.handeye.problem import N_CAMERA, WRIST_PRIORS, Calibration, Floats, Priors, Rig, TrackedClip
from extractors.handeye.project import Observations
from extractors.handeye.search import Found, Search, alike
from extractors.handeye.start import affine_groups

RIVAL_EXCESS = 5.0
"""A camera in another basin is ruled out if it is less likely by this factor's exponential (e^5 is 150)."""

HALVES_APART = 12.0
"""Squared distance per parameter at which two halves tell different cameras. Up to here sigmas are widened by it:
tracks that drift differ by 2 to 8, a camera that is nudged by a twentieth of the width by 50 and more."""

DELAYS_S = tuple(np.linspace(-0.6, 0.6, 13).tolist())
"""Delays that starts are tried with; the solver moves on from the best."""


def calibrate_camera(
    clips: Sequence[TrackedClip],
    *,
    rig: Rig = "fixed",
    priors: Priors | None = None,
    limits: Limits | None = None,
    drift: float = 1.0,
    seed: int = 0,
    start: Calibration | None = None,
    judged: bool = True,
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
        drift: the sigmas' factor for what all tracks of a tracker get wrong alike, which leaves no residual; 1 for
            tracks whose errors are their own.
        seed: fixes the draws; equal arguments give equal results.
        start: of the same tracks before they were matched again: sought from its camera and the tracks that rode,
            instead of everywhere.
        judged: False leaves sigmas and verdict out, for a camera that only says where to look again.

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
    search = Search(clips, paths, rig, priors, seed)
    if start is not None:
        begun = search.solve_from(start)
        found = [] if begun is None else [begun]
    else:
        delays = DELAYS_S if priors.delay_s > 0 else (0.0,)
        groups = affine_groups(clips, paths, delays, lever_m=search.lever_m, seed=seed)
        found = [solved for group in groups if (solved := search.solve_group(group)) is not None]
    if not found:
        return _nothing(search.n_tracks, f"fewer than {limits.min_tracks} tracks move as the recorded hand does")
    best = max(found, key=lambda each: each.explained)
    if judged or start is None:  # in between, the next one looks at other basins anyway
        best = search.beside_rivals(best)
    if not judged:
        return _calibration(clips, search, best, None, ("it was not judged",), origin, float("nan"))
    spread = uncertainty(best.problem, best.solution)
    halves, farthest = _halves(best)
    spread = spread.widened(max(farthest, 1.0) * drift**2)
    verdict = judge(best.problem, best.solution, best.riding, spread, limits) + _undecided(best, spread)
    if halves > HALVES_APART:
        what = "every other clip" if len(clips) > 1 else "the clip's two halves"
        verdict += (f"{what} tell different cameras ({np.sqrt(halves):.1f} sigmas apart)",)
    return _calibration(clips, search, best, spread, verdict, origin, halves)


def _undecided(found: Found, spread: Uncertainty) -> tuple[str, ...]:
    """Reasons from other basins: a camera that explains the tracks about as well and is not the same."""
    best = found.solution
    for rival in found.rivals:
        excess = (rival.cost - best.cost) / spread.inflation
        if excess < RIVAL_EXCESS and not alike(rival.state, best.state, focal=max(3 * spread.focal, 0.1)):
            apart = np.exp(abs(rival.state.log_focal - best.state.log_focal)) - 1
            return (f"two cameras explain the tracks about as well; their focal lengths are {apart:.0%} apart",)
    return ()


def _halves(found: Found) -> tuple[float, float]:
    """Squared distance a parameter, in their own sigmas, of the cameras that two halves of the data tell; about 1.

    First of halves in time (of many clips: every other one), then the largest of these and of halves in space: on
    either side of the middle of the points, along the two directions in which they are spread most. A camera that is
    nudged, an object that slips and poses that are not the hand's leave their trace in time; another link of the arm
    that goes nearly as the hand does, in space; tracks that drift, in both, also where the residual is small.
    """
    seen = found.problem.seen
    clip = clip_of(found.problem)
    # Of the clips whose tracks ride, which may be fewer than were given: a half without any tells nothing.
    riding = np.unique(clip)
    early = np.searchsorted(riding, clip) % 2 == 0 if len(riding) > 1 else seen.frame < np.median(seen.frame)
    in_time = _apart(found, early)
    used = np.unique(seen.track)
    off = found.solution.points - np.median(found.solution.points[used], axis=0)
    along = off @ np.linalg.svd(off[used], full_matrices=False)[2][:2].T
    sides = [axis[seen.track] < np.median(axis[used]) for axis in along.T]
    return in_time, max(in_time, *(_apart(found, side) for side in sides))


def _apart(found: Found, first: NDArray[np.bool_]) -> float:
    """As `_halves`, of the observations `first` and of the others."""
    seen, solved = found.problem.seen, []
    for half in (first, ~first):
        part = Observations(seen.xy[half], seen.frame[half], seen.track[half], seen.n_tracks)
        problem = replace(found.problem, seen=part)
        solution = solve(problem, found.solution.state, found.solution.points, found.solution.scale)
        solved.append((solution.state, uncertainty(problem, solution).covariance[:7, :7]))
    (one, one_covariance), (other, other_covariance) = solved
    turn = Rotation.from_matrix(one.rotation.T @ other.rotation).as_rotvec()
    apart = np.array([other.log_focal - one.log_focal, *turn, *(other.position - one.position)])
    # What neither half tells, such as the focal length by two points, tells nothing of how far they are apart.
    return float(apart @ np.linalg.pinv(one_covariance + other_covariance, hermitian=True) @ apart) / len(apart)


def _calibration(
    clips: Sequence[TrackedClip],
    search: Search,
    best: Found,
    spread: Uncertainty | None,
    reasons: tuple[str, ...],
    origin: Floats,
    halves: float,
) -> Calibration:
    state, solution, riding, nan = best.solution.state, best.solution, best.riding, float("nan")
    carrier_from_camera = np.eye(4)
    carrier_from_camera[:3, :3] = state.rotation
    wrist = search.rig == "wrist"
    carrier_from_camera[:3, 3] = state.position + (0 if wrist else origin)
    points, places = (each + (origin if wrist else 0) for each in (solution.points, best.places))
    return Calibration(
        observable=not reasons,
        reasons=reasons,
        focal_px=state.focal * clips[0].size[1],
        focal_sigma=spread.focal if spread else nan,
        carrier_from_camera=carrier_from_camera,
        position_sigma_m=spread.position_m if spread else nan,
        rotation_sigma_deg=spread.rotation_deg if spread else nan,
        delay_s=state.delay_s,
        delay_sigma_s=spread.delay_s if spread else nan,
        points=np.where(riding[:, None], points, np.nan),
        points_sigma=np.where(riding[:, None], spread.points_m if spread else nan, nan),
        places=places,
        riding=riding,
        residual=solution.scale,
        covariance=spread.covariance if spread else np.full((N_CAMERA, N_CAMERA), nan),
        report={
            "riding": int(riding.sum()),
            "moving": int(search.candidates.sum()),
            "inflation": spread.inflation if spread else nan,
            "halves_apart": halves,
            "explained": best.explained,
            "shared_m": state.shared.tolist(),
        },
        cameras=(state, *best.basins),
    )


def _nothing(n_tracks: int, reason: str) -> Calibration:
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
        places=np.full((n_tracks, 3), nan),
        riding=np.zeros(n_tracks, np.bool_),
        residual=nan,
        covariance=np.full((N_CAMERA, N_CAMERA), nan),
    )


def _check(clips: Sequence[TrackedClip]) -> None:
    if not clips:
        raise GeometryError("a camera is calibrated from one clip at least, got none")
    shapes = {(clip.size, clip.pixel_aspect) for clip in clips}
    if len(shapes) > 1:
        raise GeometryError(f"clips of one camera have one frame size, got {sorted(shapes)}; group them by camera")
