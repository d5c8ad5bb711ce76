"""Where a camera that is known should see points that ride, and how patches about them look from there."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extractors.handeye.known import KnownCamera
from extractors.handeye.path import HandPath
from extractors.handeye.problem import Floats, TrackedClip
from extractors.handeye.project import Observations, carried_by, poses_at, project_points
from extractors.matching import match_again


class Sight(NamedTuple):
    """What a camera should see.

    Attributes:
        xy: (T, N, 2) pixels, where each point should be; NaN for those whose place nobody knows.
        warps: (T, N, 2, 2) maps offsets about the point in the frame it was posed in, of a patch that faced the camera
            then and rides with the hand, to offsets about it in each frame.
    """

    xy: Floats
    warps: Floats


def sight(clip: TrackedClip, camera: KnownCamera, points: Floats, posed: NDArray[np.intp]) -> Sight:
    """What a camera that stands still should see of points that ride on the hand.

    Args:
        clip: its size, its hand's poses and their times.
        camera: in the robot's base frame.
        points: (N, 3) metres in the hand's frame, NaN where nobody knows.
        posed: (N,) the frame in which each was posed.

    Raises:
        GeometryError: the hand's path is none (see `HandPath.through`).
    """
    (height, width), n_frames = clip.size, len(clip.timestamp)
    poses = poses_at([HandPath.through(clip.hand_pose, clip.timestamp, np.zeros(3))], camera.delay_s)
    ids = np.flatnonzero(np.isfinite(points).all(axis=1))
    xy = np.full((n_frames, len(points), 2), np.nan)
    warps = np.full((n_frames, len(points), 2, 2), np.nan)
    frame, track = np.tile(np.arange(n_frames), len(ids)), np.arange(len(ids)).repeat(n_frames)
    everywhere = Observations(np.zeros((len(frame), 2)), frame, track, len(ids))
    carried = carried_by(poses, everywhere)
    found = project_points(camera.state(width, np.zeros(3)), points[ids], carried, everywhere, held=True)
    scale = np.array([width, width * clip.pixel_aspect])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    by_track = (len(ids), n_frames)
    ahead = (found.depth > 0).reshape(by_track).T
    seen_at = (found.xy.T * scale + centre).reshape(*by_track, 2).swapaxes(0, 1)
    xy[:, ids] = np.where(ahead[..., None], seen_at, np.nan)
    # By a point's place: no step along the line of sight changes a picture, so the least step that makes an offset
    # stays in the plane that faces the camera.
    by_point = (found.by_point.T * scale[:, None]).reshape(*by_track, 2, 3).swapaxes(0, 1)
    back = np.linalg.pinv(by_point[posed[ids], np.arange(len(ids))])
    warps[:, ids] = by_point @ back
    return Sight(xy, warps)


def seen_again(
    alone: NDArray[np.uint8],
    clip: TrackedClip,
    camera: KnownCamera,
    points: Floats,
    riding: NDArray[np.bool_],
    posed: NDArray[np.intp],
    earlier: Sight | None = None,
) -> tuple[TrackedClip, Sight]:
    """The clip with its tracks matched again where a camera should see them, and what it should see.

    Args:
        alone: (T, H, W, 3) RGB, the body before its own colours (see `extractors.matching.body_alone`).
        clip: tracks and poses of the body.
        camera: in the frame that the poses lead to.
        points: (N, 3) metres in the body's frame, NaN where nobody knows.
        riding: (N,) bool, tracks that ride on it, which are found again where they were lost.
        posed: (N,) the frame whose picture each is matched with; it is seen there.
        earlier: what these tracks were matched again with already.
    """
    seen = sight(clip, camera, points, posed)
    before = None if earlier is None else earlier.warps
    xy, visibility = match_again(alone, clip.xy, clip.visibility, posed, *seen, riding, before)
    return replace(clip, xy=xy, visibility=visibility), seen
