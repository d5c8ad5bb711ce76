"""One clip before a camera that is known: which tracks ride, where their points are, and how well the camera fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.adjust import Problem, Solution, normal_equations
from extractors.handeye.descent import by_shared
from extractors.handeye.judge import Limits
from extractors.handeye.path import HandPath
from extractors.handeye.problem import COLUMNS, N_CAMERA, CameraState, Floats, Priors, Rig, TrackedClip
from extractors.handeye.project import PROJECTING, deviations
from extractors.handeye.search import Search


@dataclass(frozen=True, slots=True, eq=False)
class KnownCamera:
    """A camera in its carrier's frame: the robot's base (it stands still) or the hand (it is on the wrist).

    Attributes:
        focal_px: along x.
        base_from_camera: (4, 4), maps camera-frame points to the carrier's frame.
        delay_s: poses are ahead of images by so much.
        covariance: (12, 12) in `COLUMNS`' order, zero where it is known exactly.
    """

    focal_px: float
    base_from_camera: Floats
    delay_s: float = 0.0
    covariance: Floats = field(default_factory=lambda: np.zeros((N_CAMERA, N_CAMERA)))

    def depth_m(self, places: Floats) -> Floats:
        """(...) metres along the optical axis, of places (..., 3) in the carrier's frame."""
        return np.asarray((places - self.base_from_camera[:3, 3]) @ self.base_from_camera[:3, 2])

    def state(self, width: int, origin: Floats) -> CameraState:
        """The camera as the solver has it, for frames `width` pixels wide and a base moved to `origin` (3,)."""
        return CameraState(
            float(np.log(self.focal_px / width)),
            self.base_from_camera[:3, :3],
            self.base_from_camera[:3, 3] - origin,
            np.zeros(3),
            self.delay_s,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Riders:
    """Tracks that move as points of the hand (or of the scene, for a wrist camera) before a known camera.

    Attributes:
        riding: (N,) bool.
        points: (N, 3) metres in the hand's frame (fixed) or the base (wrist); NaN for the others.
        points_sigma: (N, 3), with the camera's uncertainty.
        places: (N, 3) as `points`, of all tracks that move: where they would be if they rode.
        residual: robust standard deviation, widths of the frame; NaN where too few tracks ride.
        reasons: why the camera does not fit the clip, or ().
        report: JSON types only.
    """

    riding: NDArray[np.bool_]
    points: Floats
    points_sigma: Floats
    places: Floats
    residual: float
    reasons: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


def riders_of(
    clip: TrackedClip, camera: KnownCamera, *, rig: Rig = "fixed", priors: Priors, limits: Limits | None = None
) -> Riders:
    """The tracks of `clip` that ride, with the camera held as it is and each point free.

    Raises:
        GeometryError: the hand's path is none (see `HandPath.through`).
    """
    limits = limits or Limits()
    origin = np.nan_to_num(np.nanmean(clip.hand_pose[:, :3, 3], axis=0))
    path = HandPath.through(clip.hand_pose, clip.timestamp, origin, rig)
    shared = np.zeros(N_CAMERA, np.bool_)
    shared[COLUMNS["shared"]] = True
    search = Search([clip], [path], rig, priors, 0, free=shared)
    wrist = rig == "wrist"
    state = camera.state(clip.size[1], np.zeros(3) if wrist else origin)
    found = search.solve_known(state)
    n_tracks = clip.visibility.shape[1]
    nowhere = np.full((n_tracks, 3), np.nan)
    if found is None or found.riding.sum() < limits.min_tracks:
        n_riding = 0 if found is None else int(found.riding.sum())
        reason = f"{n_riding} tracks move as the camera would see the hand move, below {limits.min_tracks}"
        seen = {"riding": n_riding, "moving": int(search.candidates.sum())}
        return Riders(np.zeros(n_tracks, np.bool_), nowhere, nowhere, nowhere, float("nan"), (reason,), seen)
    solution, riding, moved = found.solution, found.riding, origin if wrist else np.zeros(3)
    by_tracks, by_camera = points_covariance(found.problem, solution, camera)
    return Riders(
        riding=riding,
        points=np.where(riding[:, None], solution.points + moved, np.nan),
        points_sigma=np.where(riding[:, None], deviations(by_tracks + by_camera), np.nan),
        places=found.places + moved,
        residual=solution.scale,
        report={"riding": int(riding.sum()), "moving": int(search.candidates.sum()), "explained": found.explained},
    )


def points_covariance(problem: Problem, solution: Solution, camera: KnownCamera) -> tuple[Floats, Floats]:
    """(N, 3, 3) twice, square metres, of points that a known camera sees: by their tracks, and by that camera's own.

    Each observation of a track counts with an error of its own.
    """
    poses = problem.carried(solution.state.delay_s)
    normal = normal_equations(problem, solution.state, solution.points, poses, solution.scale)
    inverse = np.linalg.inv(normal.point)
    carried = normal.mixed @ inverse
    covariance = camera.covariance[np.ix_(PROJECTING, PROJECTING)]
    return np.asarray(inverse), by_shared(carried[:, PROJECTING], covariance)
