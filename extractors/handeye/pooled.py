"""Clips of one camera together: how each fits the camera that the others tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.adjust import Problem, settle
from extractors.handeye.known import KnownCamera, riders_of
from extractors.handeye.path import HandPath
from extractors.handeye.problem import Calibration, CameraState, Floats, Priors, Rig, TrackedClip
from extractors.handeye.search import Search


def left_one_out(
    clips: Sequence[TrackedClip], found: Calibration, *, rig: Rig = "fixed", priors: Priors
) -> NDArray[np.float64]:
    """(C,) residual of each clip before the camera that the others tell, widths of the frame; NaN: too few tracks ride.

    The others are solved again from where all of them stopped, with the tracks that rode then.

    Args:
        clips: of one camera, two at least.
        found: what they told together.
        rig: as it was solved with.
        priors: likewise.
    """
    origin = np.nan_to_num(np.nanmean(np.concatenate([clip.hand_pose[:, :3, 3] for clip in clips]), axis=0))
    paths = [HandPath.through(clip.hand_pose, clip.timestamp, origin, rig) for clip in clips]
    search = Search(clips, paths, rig, priors, 0)
    moved = np.zeros(3) if rig == "wrist" else origin
    shared = np.asarray(found.report["shared_m"])
    state = CameraState(
        float(np.log(found.focal_px / clips[0].size[1])),
        found.carrier_from_camera[:3, :3],
        found.carrier_from_camera[:3, 3] - moved,
        shared,
        found.delay_s,
    )
    points = np.where(found.riding[:, None], found.points - (origin if rig == "wrist" else 0), shared)
    ends = np.cumsum([0, *(clip.visibility.shape[1] for clip in clips)])
    residuals = []
    for number, clip in enumerate(clips):
        others = found.riding.copy()
        others[ends[number] : ends[number + 1]] = False
        if others.sum() < 3:
            residuals.append(np.nan)
            continue
        problem = Problem(search.seen.of(others), paths, priors, search.free)
        settled = settle(problem, state, points, found.residual).state
        residuals.append(riders_of(clip, _camera(settled, moved, clip.size[1]), rig=rig, priors=priors).residual)
    return np.asarray(residuals, np.float64)


def _camera(state: CameraState, moved: Floats, width: int) -> KnownCamera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = state.rotation, state.position + moved
    return KnownCamera(state.focal * width, pose, state.delay_s)
