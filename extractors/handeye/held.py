"""Points of a held object in metres, and the object's pose through the clip, from one camera that is known.

While an object is held its tracks are structure from motion with known motion. Before and after it rests: one pose
explains all frames of a rest. Which tracks ride is found by the held frames, each point for itself; then all points are
solved together, from rests too (`body`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.handeye.adjust import RESIDUAL_FLOOR, Problem, Solution, settle
from extractors.handeye.body import body_of, off_axis
from extractors.handeye.known import KnownCamera, points_covariance
from extractors.handeye.path import HandPath
from extractors.handeye.problem import COLUMNS, N_CAMERA, Floats, Priors, TrackedClip
from extractors.handeye.project import Observations, deviations, poses_at
from extractors.handeye.rests import Rest, find_rest, rests_of

SLIP_SCALES, SLIP_M = 3.0, 0.005
"""A frame in which the object's tracks are all off together by so many times what noise does, and by so many metres at
the hand's distance, has slipped: trackers move all points of a thing together too, by up to a pixel."""

DRIFT = 1.7
"""Factor of the points' sigmas beyond those of tracks that err as one over their frames, and all as one in what they
share: nine in ten errors of 47 generated clips lie within two sigmas (docs/benchmarks.md)."""

MIN_HELD_TURN_M = 0.03
"""Least deviation of the hand's path while it holds, metres: below it depth is not seen."""

POINT_PRIORS = Priors(shared_m=0.10, own_m=0.03, independent=np.inf, delay_s=0.0)
"""An object is near the hand that holds it, and what a gripper holds is some ten centimetres large: each point is that
near to the others, however many they are (of a hand that rides they are not all one thing's). How large it is across
the line of sight its tracks tell soon, and a thing is about as deep as it is wide."""

OWN_M = (0.005, 0.06)
"""Least and largest deviation of a held object's points from their middle that is believed, metres."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldObject:
    """A rigid object that the hand carried.

    Attributes:
        points: (N, 3) float64 metres in the object's frame, one a track; NaN for tracks that do not ride. The object's
            frame has its origin in the median of its points and the hand's axes at the grasp.
        points_sigma: (N, 3), with the camera's uncertainty.
        hand_from_object: (4, 4), constant while held.
        pose: (T, 4, 4) object to base; NaN where `pose_valid` is False.
        pose_valid: (T,) bool.
        pose_sigma: (T, 2) metres and degrees; NaN where `pose_valid` is False.
        trusted: (T,) bool, held frames that the points rest on, beside the rests: those before a slip.
        residual: noise of the tracks while held, widths of the frame.
        reasons: why there are no points, or () .
        report: JSON types only.
    """

    points: Floats
    points_sigma: Floats
    hand_from_object: Floats
    pose: Floats
    pose_valid: NDArray[np.bool_]
    pose_sigma: Floats
    trusted: NDArray[np.bool_]
    residual: float
    reasons: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


def held_object(clip: TrackedClip, held: NDArray[np.bool_], camera: KnownCamera, *, min_tracks: int = 6) -> HeldObject:
    """Points and poses of the object whose tracks `clip` has.

    Args:
        clip: the object's tracks, visible wherever the tracker saw them, held or not.
        held: (T,) bool, the object is grasped.
        camera: the fixed camera.
        min_tracks: fewest tracks that must ride.

    Raises:
        ShapeError: `held` has another length.
    """
    if held.shape != clip.visibility.shape[:1] or held.dtype != np.bool_:
        raise ShapeError(f"held must be (T,) bool with {len(clip.visibility)} frames, got {held.shape} {held.dtype}")
    stretch = _longest(held)
    if stretch.sum() < 4:
        return _none(clip, f"the object is held in {int(stretch.sum())} frames")
    view = _View(clip, camera)
    travel = float(np.sqrt(view.poses.translation[stretch].var(axis=0).sum()))
    if travel < MIN_HELD_TURN_M:
        return _none(clip, f"the hand moves by {travel:.3f} m while it holds, below {MIN_HELD_TURN_M}")
    for trusted in _shrinking(stretch):
        solved = view.solve(trusted, min_tracks)
        if solved is None:
            return _none(clip, f"fewer than {min_tracks} tracks ride on the hand while the object is held")
        if not view.slips(trusted, *solved):
            return view.finish(trusted, held, stretch, *solved)
    return _none(clip, "the object slips in the hand")


class _View:
    """One clip before one camera."""

    def __init__(self, clip: TrackedClip, camera: KnownCamera) -> None:
        self.clip, self.camera = clip, camera
        origin = np.nanmean(clip.hand_pose[:, :3, 3], axis=0)
        self.origin = origin
        self.path = HandPath.through(clip.hand_pose, clip.timestamp, origin)
        self.state = camera.state(clip.size[1], origin)
        self.poses = poses_at([self.path], camera.delay_s)
        self.hand = np.repeat(np.eye(4)[None], len(clip.visibility), axis=0)
        self.hand[:, :3, :3] = self.poses.rotation
        self.hand[:, :3, 3] = self.poses.translation + origin

    def solve(self, trusted: NDArray[np.bool_], min_tracks: int) -> tuple[Problem, Solution, NDArray[np.bool_]] | None:
        """Points from the frames that are trusted; tracks whose residual is not the others' are left out."""
        free = np.zeros(N_CAMERA, np.bool_)
        free[COLUMNS["shared"]] = True
        seen = _observed(self.clip, trusted)
        riding = seen.counts >= max(4, 0.3 * trusted.sum())
        solution, priors = None, POINT_PRIORS
        for _ in range(5):
            if riding.sum() < min_tracks:
                return None
            problem = Problem(seen.of(riding), [self.path], priors, free)
            start = np.zeros((seen.n_tracks, 3)) if solution is None else solution.points
            solution = settle(problem, solution.state if solution else self.state, start, 0.01)
            squared = np.minimum(solution.distance, 5 * solution.scale) ** 2
            freedom = np.maximum(2 * problem.seen.counts - 3, 1)
            deviation = np.sqrt(problem.seen.per_track(squared) / freedom)
            usual = max(float(np.quantile(deviation[riding], 0.4)), RESIDUAL_FLOOR)
            again = riding & (deviation <= 1.6 * usual)
            if (again == riding).all() and priors is not POINT_PRIORS:
                break
            riding, priors = again, replace(POINT_PRIORS, own_m=self._width(solution.points[riding], trusted))
        assert solution is not None
        return (problem, solution, riding) if riding.sum() >= min_tracks else None

    def _width(self, points: Floats, trusted: NDArray[np.bool_]) -> float:
        """Deviation of points (N, 3) of the hand's frame across the line of sight, metres, within `OWN_M`."""
        across = off_axis(points, self._sight(np.flatnonzero(trusted)))
        return float(np.clip(np.sqrt((across**2).sum(axis=1).mean() / 2), *OWN_M))

    def _sight(self, frames: NDArray[np.intp]) -> Floats:
        """(3,) the camera's axis in the hand's frame, in the middle of `frames`."""
        middle = int(np.sort(frames)[len(frames) // 2])
        return np.asarray(self.poses.rotation[middle].T @ self.state.rotation[:, 2])

    def _rests(
        self,
        trusted: NDArray[np.bool_],
        held: NDArray[np.bool_],
        stretch: NDArray[np.bool_],
        carried: Floats,
        points: Floats,
        sigma: Floats,
        scale: float,
    ) -> list[Rest | None]:
        """Before the grasp and after the release; None where nothing tells one. See `find_rest`."""
        frames, last = np.flatnonzero(trusted), np.flatnonzero(stretch)[-1]
        rests: list[Rest | None] = []
        for still in rests_of(held, stretch):
            later = bool(still[last + 1 :].any())
            # What slipped was elsewhere in the hand when it was let go.
            if later and not trusted[last]:
                continue
            usual = int(frames[-1 if later else 0])
            at = find_rest(
                self.clip,
                self.camera,
                still,
                carried=carried,
                usual=usual,
                points=points,
                sigma=sigma,
                scale=scale,
            )
            rests.append(at)
        return rests

    def _body(
        self,
        problem: Problem,
        solution: Solution,
        riding: NDArray[np.bool_],
        rests: Sequence[Rest],
        hand_from_object: Floats,
    ) -> tuple[Floats, Floats]:
        """(R, 3) the points that ride, in the object's frame, and (R, 3, 3) their covariance by their tracks."""
        object_from_hand = np.linalg.inv(hand_from_object)
        held = problem.seen.of(riding).renumbered()
        body = body_of(
            held,
            solution.scale,
            self.poses,
            [replace(rest, xy=rest.xy[riding], count=rest.count[riding]) for rest in rests],
            self.state,
            solution.points[riding],
            np.array([np.linalg.inv(self.hand[rest.edge]) @ rest.pose @ object_from_hand for rest in rests]),
            sight=self._sight(held.frame),
            own_m=problem.priors.own_m,
            shared_m=problem.priors.shared_m,
        )
        fit = body.fitted()
        trust = 1 / (DRIFT**2 * body.seen.counts[body.seen.track])
        return fit.points - hand_from_object[:3, 3], body.covariance(fit, trust, alike=len(fit.points))

    def slips(
        self, trusted: NDArray[np.bool_], problem: Problem, solution: Solution, riding: NDArray[np.bool_]
    ) -> bool:
        """Whether the tracks are off together, in more frames than chance has: noise is each track's own."""
        frame = problem.seen.frame
        count = np.bincount(frame, minlength=len(trusted))
        total = np.stack([np.bincount(frame, along, len(trusted)) for along in solution.residual], axis=1)
        usable = trusted & (count >= 4)
        mean = total[usable] / count[usable][:, None]
        depth = self.camera.depth_m(self.poses.translation[usable] + self.origin)
        noise = SLIP_SCALES * np.hypot(solution.scale / np.sqrt(count[usable]), 2 * RESIDUAL_FLOOR)
        allowed = np.maximum(noise, SLIP_M * self.state.focal / np.maximum(depth, 0.1))
        return bool((np.linalg.norm(mean, axis=1) > allowed).mean() > 0.25)

    def finish(
        self,
        trusted: NDArray[np.bool_],
        held: NDArray[np.bool_],
        stretch: NDArray[np.bool_],
        problem: Problem,
        solution: Solution,
        riding: NDArray[np.bool_],
    ) -> HeldObject:
        """The object's frame, its points with sigma, and its poses."""
        points_hand = np.where(riding[:, None], solution.points, np.nan)
        hand_from_object = np.eye(4)
        hand_from_object[:3, 3] = np.nanmedian(points_hand, axis=0)
        points = points_hand - hand_from_object[:3, 3]
        by_tracks, by_camera = points_covariance(problem, solution, self.camera)
        sigma = np.where(riding[:, None], deviations(by_tracks + by_camera), np.nan)
        carried = self.hand @ hand_from_object
        pose = np.where(trusted[:, None, None], carried, np.nan)
        rests = self._rests(trusted, held, stretch, carried, points, sigma, solution.scale)
        found = [rest for rest in rests if rest is not None]
        points[riding], lasting = self._body(problem, solution, riding, found, hand_from_object)
        together = np.full_like(sigma, np.nan)
        together[riding] = deviations(lasting + by_camera[riding])
        pose_sigma = np.full((len(trusted), 2), np.nan)
        common, own = (float(np.linalg.norm(np.nanmedian(each, axis=0))) for each in (together, sigma))
        extent = max(float(np.sqrt(np.nanvar(points, axis=0).sum())), 0.005)
        # Held, it turns with the hand: the axes are the hand's by definition, the origin is as good as the points.
        held_sigma = np.array([common, np.degrees(own / (extent * np.sqrt(max(int(riding.sum()), 1))))])
        pose_sigma[trusted] = held_sigma
        for rest in found:
            pose[rest.frames], pose_sigma[rest.frames] = rest.pose, np.hypot(rest.sigma, held_sigma)
        middle = np.eye(4)
        middle[:3, 3] = np.nanmedian(points, axis=0)
        points, hand_from_object, pose = points - middle[:3, 3], hand_from_object @ middle, pose @ middle
        return HeldObject(
            points=points,
            points_sigma=together,
            hand_from_object=hand_from_object,
            pose=pose,
            pose_valid=np.asarray(np.isfinite(pose).all(axis=(1, 2))),
            pose_sigma=pose_sigma,
            trusted=trusted,
            residual=solution.scale,
            report={
                "riding": int(riding.sum()),
                "held_frames": int(stretch.sum()),
                "trusted_frames": int(trusted.sum()),
                "rests_found": [rest is not None for rest in rests],
            },
        )


def _observed(clip: TrackedClip, frames: NDArray[np.bool_]) -> Observations:
    visible = clip.visibility & frames[:, None] & np.isfinite(clip.xy).all(axis=2)
    track, frame = np.nonzero(visible.T)
    return Observations(clip.centred[frame, track], frame, track, clip.visibility.shape[1])


def _longest(held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The longest run of held frames alone: a second grasp holds the object elsewhere."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(int)))
    kept = np.zeros_like(held)
    if len(edges):
        run = int(np.argmax(edges[1::2] - edges[::2]))
        kept[edges[2 * run] : edges[2 * run + 1]] = True
    return kept


def _shrinking(stretch: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The held frames, then their first parts: what slips was held well before."""
    frames = np.flatnonzero(stretch)
    for share in (1.0, 0.75, 0.5, 0.35):
        kept = np.zeros_like(stretch)
        kept[frames[: max(round(share * len(frames)), 4)]] = True
        yield kept


def _none(clip: TrackedClip, reason: str) -> HeldObject:
    n_frames, n_tracks = clip.visibility.shape
    return HeldObject(
        points=np.full((n_tracks, 3), np.nan),
        points_sigma=np.full((n_tracks, 3), np.nan),
        hand_from_object=np.full((4, 4), np.nan),
        pose=np.full((n_frames, 4, 4), np.nan),
        pose_valid=np.zeros(n_frames, np.bool_),
        pose_sigma=np.full((n_frames, 2), np.nan),
        trusted=np.zeros(n_frames, np.bool_),
        residual=float("nan"),
        reasons=(reason,),
    )
